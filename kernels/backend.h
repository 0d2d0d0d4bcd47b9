// kernels/backend.h - the table of kernels that each backend fills, and the way from a stream to its table.
// The checks stand in kernels/<name>.cpp, once for all backends; backends trust shapes and check contents only.
#pragma once

#include "core/stream.h"
#include "kernels/activation.h"
#include "kernels/adamw.h"
#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/dispatch.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/grouped_gemm.h"
#include "kernels/norm.h"
#include "kernels/permute.h"
#include "kernels/reduce.h"
#include "kernels/rope.h"
#include "kernels/router.h"
#include "kernels/slots.h"
#include "kernels/softmax.h"

namespace weft::kernels {

/// One backend's kernels on rows stored as T (float, double or BF16): each entry has the signature and contract of the
/// public function of its name. BF16 is storage alone: kernels read it, compute in F32 and round once when they write.
template <class T>
struct RowKernels {
  decltype(&kernels::gemm<T>) gemm;
  decltype(&kernels::gemm_group<T>) gemm_group;
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
  decltype(&kernels::unpermute_weighted<T>) unpermute_weighted;
  decltype(&kernels::unpermute_weighted_backward<T>) unpermute_weighted_backward;
  decltype(&kernels::permute_backward<T>) permute_backward;
  decltype(&kernels::embedding_forward<T>) embedding_forward;
  decltype(&kernels::embedding_backward<T>) embedding_backward;
  decltype(&kernels::cross_entropy<T>) cross_entropy;
  decltype(&kernels::sum_rows<T>) sum_rows;
  decltype(&kernels::fill<T>) fill;
  decltype(&kernels::axpy<T>) axpy;
  decltype(&kernels::copy<T>) copy;
  decltype(&kernels::copy_rows<T>) copy_rows;
  decltype(&kernels::copy_blocks<T>) copy_blocks;
  decltype(&kernels::slots_scatter<T>) slots_scatter;
  decltype(&kernels::slots_scatter_backward<T>) slots_scatter_backward;
  decltype(&kernels::slots_gather_backward<T>) slots_gather_backward;
  decltype(&kernels::adamw<T>) adamw;
};

/// All of them. What routers and norms of gradients work on is never narrower than F32. Functions without
/// an element type stand in either table.
template <class T>
struct Backend : RowKernels<T> {
  decltype(&kernels::softmax_forward<T>) softmax_forward;
  decltype(&kernels::softmax_backward<T>) softmax_backward;
  decltype(&kernels::count_rows) count_rows;
  decltype(&kernels::place_rows) place_rows;
  decltype(&kernels::route_top_k<T>) route_top_k;
  decltype(&kernels::order_rows) order_rows;
  decltype(&kernels::router_drop) router_drop;
  decltype(&kernels::router_count) router_count;
  decltype(&kernels::router_mean_probs<T>) router_mean_probs;
  decltype(&kernels::router_fractions) router_fractions;
  decltype(&kernels::router_backward<T>) router_backward;
  decltype(&kernels::router_sigmoid<T>) router_sigmoid;
  decltype(&kernels::router_sigmoid_backward<T>) router_sigmoid_backward;
  decltype(&kernels::router_draw<T>) router_draw;
  decltype(&kernels::router_noise<T>) router_noise;
  decltype(&kernels::normalize_rows<T>) normalize_rows;
  decltype(&kernels::normalize_rows_backward<T>) normalize_rows_backward;
  decltype(&kernels::multiply<T>) multiply;
  decltype(&kernels::router_temperature<T>) router_temperature;
  decltype(&kernels::router_z_backward<T>) router_z_backward;
  decltype(&kernels::expert_choice<T>) expert_choice;
  decltype(&kernels::expert_choice_backward<T>) expert_choice_backward;
  decltype(&kernels::keep_experts) keep_experts;
  decltype(&kernels::fill_slots<T>) fill_slots;
  decltype(&kernels::merge_logsumexp<T>) merge_logsumexp;
  decltype(&kernels::column_logsumexp<T>) column_logsumexp;
  decltype(&kernels::column_softmax_forward<T>) column_softmax_forward;
  decltype(&kernels::column_dot<T>) column_dot;
  decltype(&kernels::column_softmax_backward<T>) column_softmax_backward;
  decltype(&kernels::clip_factor) clip_factor;
  decltype(&kernels::sum_squares<T>) sum_squares;
  decltype(&kernels::inner_product<T>) inner_product;
};
template <>
struct Backend<BF16> : RowKernels<BF16> {
  decltype(&kernels::gemm_group<BF16, float>) gemm_group_wide;
  decltype(&kernels::linear_forward_wide<BF16>) linear_forward_wide;
  decltype(&kernels::linear_backward_input_wide<BF16>) linear_backward_input_wide;
  decltype(&kernels::linear_backward_weight_wide<BF16>) linear_backward_weight_wide;
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
