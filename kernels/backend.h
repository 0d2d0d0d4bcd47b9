// kernels/backend.h - the table of kernels that each backend fills, and the way from a stream to its table.
// The checks stand in kernels/<name>.cpp, once for all backends; backends trust shapes and check contents only.
#pragma once

#include "core/stream.h"
#include "kernels/activation.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/grouped_gemm.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"
#include "kernels/topk.h"

namespace weft::kernels {

/// One backend's kernels on rows stored as T (float, double or BF16): each entry has the signature and contract of the
/// public function of its name. BF16 is storage alone: kernels read it, compute in F32 and round once when they write.
template <class T>
struct RowKernels {
  decltype(&kernels::gemm<T>) gemm;
  decltype(&kernels::linear_forward<T>) linear_forward;
  decltype(&kernels::linear_backward_input<T>) linear_backward_input;
  decltype(&kernels::linear_backward_weight<T>) linear_backward_weight;
  decltype(&kernels::grouped_linear_forward<T>) grouped_linear_forward;
  decltype(&kernels::grouped_linear_backward_input<T>) grouped_linear_backward_input;
  decltype(&kernels::grouped_linear_backward_weight<T>) grouped_linear_backward_weight;
  decltype(&kernels::rms_norm_forward<T>) rms_norm_forward;
  decltype(&kernels::rms_norm_backward<T>) rms_norm_backward;
  decltype(&kernels::layer_norm_forward<T>) layer_norm_forward;
  decltype(&kernels::layer_norm_backward<T>) layer_norm_backward;
  decltype(&kernels::swiglu_forward<T>) swiglu_forward;
  decltype(&kernels::swiglu_backward<T>) swiglu_backward;
  decltype(&kernels::gelu_forward<T>) gelu_forward;
  decltype(&kernels::gelu_backward<T>) gelu_backward;
  decltype(&kernels::rope<T>) rope;
  decltype(&kernels::attention_forward<T>) attention_forward;
  decltype(&kernels::attention_merge<T>) attention_merge;
  decltype(&kernels::attention_backward<T>) attention_backward;
  decltype(&kernels::gather_rows<T>) gather_rows;
  decltype(&kernels::scatter_rows<T>) scatter_rows;
  decltype(&kernels::unpermute_weighted<T>) unpermute_weighted;
  decltype(&kernels::unpermute_weighted_backward<T>) unpermute_weighted_backward;
  decltype(&kernels::permute_backward<T>) permute_backward;
  decltype(&kernels::embedding_forward<T>) embedding_forward;
  decltype(&kernels::embedding_backward<T>) embedding_backward;
  decltype(&kernels::cross_entropy<T>) cross_entropy;
  decltype(&kernels::fill<T>) fill;
  decltype(&kernels::axpy<T>) axpy;
  decltype(&kernels::copy<T>) copy;
  decltype(&kernels::copy_rows<T>) copy_rows;
};

/// All of them. What routers, optimizers and norms of gradients work on is never narrower than F32.
template <class T>
struct Backend : RowKernels<T> {
  decltype(&kernels::softmax_forward<T>) softmax_forward;
  decltype(&kernels::softmax_backward<T>) softmax_backward;
  decltype(&kernels::top_k<T>) top_k;
  decltype(&kernels::adamw<T>) adamw;
  decltype(&kernels::sum_squares<T>) sum_squares;
};
template <>
struct Backend<BF16> : RowKernels<BF16> {
  decltype(&kernels::widen<BF16>) widen;
  decltype(&kernels::narrow<BF16>) narrow;
};

namespace cpu {
template <class T>
[[nodiscard]] const Backend<T>& backend();
}
namespace cuda {
/// Throws kUnavailable in builds without CUDA.
template <class T>
[[nodiscard]] const Backend<T>& backend();
}  // namespace cuda

/// The table for the stream's device.
template <class T>
[[nodiscard]] const Backend<T>& backend(const Stream& stream) {
  return stream.device().kind == DeviceKind::kCpu ? cpu::backend<T>() : cuda::backend<T>();
}

}  // namespace weft::kernels
