// tests/kernels/device_kernels.h - the kernels of kernels/*.h on host memory, on whichever device a test case names.
// TEMPLATE_TEST_CASE("...", "[...]", WEFT_KERNEL_DEVICES) { WEFT_KERNEL_CASE(T, device); gemm<T>(device, ...); }
#pragma once

#include <string>

#include "tests/kernels/kernel_test.h"
#include "tests/kernels/staging.h"
#include "tests/support/devices.h"

namespace weft::test {

template <class T, DeviceKind kind>
struct KernelCase {
  using Type = T;
  static constexpr DeviceKind kKind = kind;
};
using cpu_f32 = KernelCase<float, DeviceKind::kCpu>;
using cpu_f64 = KernelCase<double, DeviceKind::kCpu>;
using cpu_bf16 = KernelCase<BF16, DeviceKind::kCpu>;
using cuda_f32 = KernelCase<float, DeviceKind::kCuda>;
using cuda_f64 = KernelCase<double, DeviceKind::kCuda>;
using cuda_bf16 = KernelCase<BF16, DeviceKind::kCuda>;
#define WEFT_KERNEL_DEVICES weft::test::cpu_f32, weft::test::cpu_f64, weft::test::cuda_f32, weft::test::cuda_f64
#define WEFT_ROW_DEVICES WEFT_KERNEL_DEVICES, weft::test::cpu_bf16, weft::test::cuda_bf16  // of kernels on stored rows
#define WEFT_BF16_DEVICES weft::test::cpu_bf16, weft::test::cuda_bf16
#define WEFT_F32_DEVICES weft::test::cpu_f32, weft::test::cuda_f32
#define WEFT_F64_DEVICES weft::test::cpu_f64, weft::test::cuda_f64

inline KernelDevice& kernel_device(DeviceKind kind) {
  if (kind == DeviceKind::kCpu) {
    static KernelDevice cpu(DeviceKind::kCpu);
    return cpu;
  }
  static KernelDevice cuda(DeviceKind::kCuda);
  return cuda;
}

/// Declares the element type and the device of a test case, or leaves it where there is no such device.
#define WEFT_KERNEL_CASE(T, device)                                                            \
  using T [[maybe_unused]] = typename TestType::Type;                                          \
  if (!weft::is_available(TestType::kKind)) WEFT_SKIP(weft::why_unavailable(TestType::kKind)); \
  [[maybe_unused]] weft::test::KernelDevice& device = weft::test::kernel_device(TestType::kKind)

using kernels::Accumulate;
using kernels::Transpose;

template <class T>
void gemm(KernelDevice& on, Matrix<T> c, Matrix<const T> a, Transpose ta, Matrix<const T> b, Transpose tb,
          Wide<T> alpha = Wide<T>(1), Accumulate accumulate = Accumulate::kOverwrite) {
  on.run(kernels::gemm<T>, c, a, ta, b, tb, alpha, accumulate);
}
template <class T>
void linear_forward(KernelDevice& on, Matrix<T> y, Matrix<const T> x, Matrix<const T> w, const T* bias = nullptr) {
  on.run(kernels::linear_forward<T>, y, x, w, Array<const T>{bias, w.rows});
}
template <class T>
void linear_backward_input(KernelDevice& on, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> w,
                           Accumulate accumulate) {
  on.run(kernels::linear_backward_input<T>, dx, dy, w, accumulate);
}
template <class T>
void linear_backward_weight(KernelDevice& on, Matrix<Wide<T>> dw, Wide<T>* dbias, Matrix<const T> dy, Matrix<const T> x,
                            Accumulate accumulate) {
  on.run(kernels::linear_backward_weight<T>, dw, Array<Wide<T>>{dbias, dw.rows}, dy, x, accumulate);
}

using Offsets = std::span<const std::int64_t>;
inline std::int64_t num_experts(Offsets offsets) { return static_cast<std::int64_t>(offsets.size()) - 1; }
template <class T>
void grouped_linear_forward(KernelDevice& on, Matrix<T> y, Matrix<const T> x, kernels::ExpertWeights<const T> w,
                            Offsets offsets) {
  on.run(kernels::grouped_linear_forward<T>, y, x, Experts<const T>{w, num_experts(offsets)}, offsets);
}
template <class T>
void grouped_linear_backward_input(KernelDevice& on, Matrix<T> dx, Matrix<const T> dy,
                                   kernels::ExpertWeights<const T> w, Offsets offsets, Accumulate accumulate) {
  on.run(kernels::grouped_linear_backward_input<T>, dx, dy, Experts<const T>{w, num_experts(offsets)}, offsets,
         accumulate);
}
template <class T>
void grouped_linear_backward_weight(KernelDevice& on, kernels::ExpertWeights<Wide<T>> dw, Matrix<const T> dy,
                                    Matrix<const T> x, Offsets offsets, Accumulate accumulate) {
  on.run(kernels::grouped_linear_backward_weight<T>, Experts<Wide<T>>{dw, num_experts(offsets)}, dy, x, offsets,
         accumulate);
}

template <class T>
void rms_norm_forward(KernelDevice& on, Matrix<T> y, Wide<T>* rstd, Matrix<const T> x, const T* weight, double eps) {
  on.run(kernels::rms_norm_forward<T>, y, Array<Wide<T>>{rstd, x.rows}, x, Array<const T>{weight, x.cols}, eps);
}
template <class T>
void rms_norm_backward(KernelDevice& on, Matrix<T> dx, Wide<T>* dweight, Matrix<const T> dy, Matrix<const T> x,
                       const Wide<T>* rstd, const T* weight, Accumulate accumulate_dx, Accumulate accumulate_dw) {
  on.run(kernels::rms_norm_backward<T>, dx, Array<Wide<T>>{dweight, x.cols}, dy, x, Array<const Wide<T>>{rstd, x.rows},
         Array<const T>{weight, x.cols}, accumulate_dx, accumulate_dw);
}
template <class T>
void layer_norm_forward(KernelDevice& on, Matrix<T> y, Wide<T>* mean, Wide<T>* rstd, Matrix<const T> x, const T* weight,
                        const T* bias, double eps) {
  on.run(kernels::layer_norm_forward<T>, y, Array<Wide<T>>{mean, x.rows}, Array<Wide<T>>{rstd, x.rows}, x,
         Array<const T>{weight, x.cols}, Array<const T>{bias, x.cols}, eps);
}
template <class T>
void layer_norm_backward(KernelDevice& on, Matrix<T> dx, Wide<T>* dweight, Wide<T>* dbias, Matrix<const T> dy,
                         Matrix<const T> x, const Wide<T>* mean, const Wide<T>* rstd, const T* weight,
                         Accumulate accumulate_dx, Accumulate accumulate_dw) {
  on.run(kernels::layer_norm_backward<T>, dx, Array<Wide<T>>{dweight, x.cols}, Array<Wide<T>>{dbias, x.cols}, dy, x,
         Array<const Wide<T>>{mean, x.rows}, Array<const Wide<T>>{rstd, x.rows}, Array<const T>{weight, x.cols},
         accumulate_dx, accumulate_dw);
}

template <class T>
void swiglu_forward(KernelDevice& on, Matrix<T> h, Matrix<const T> gate_up) {
  on.run(kernels::swiglu_forward<T>, h, gate_up);
}
template <class T>
void swiglu_backward(KernelDevice& on, Matrix<T> d_gate_up, Matrix<const T> dh, Matrix<const T> gate_up) {
  on.run(kernels::swiglu_backward<T>, d_gate_up, dh, gate_up);
}
template <class T>
void gelu_forward(KernelDevice& on, Matrix<T> h, Matrix<const T> x) {
  on.run(kernels::gelu_forward<T>, h, x);
}
template <class T>
void gelu_backward(KernelDevice& on, Matrix<T> dx, Matrix<const T> dh, Matrix<const T> x) {
  on.run(kernels::gelu_backward<T>, dx, dh, x);
}
template <class T>
void rope(KernelDevice& on, Matrix<T> x, const std::int32_t* position, std::int64_t head_dim, double theta,
          kernels::RopeDirection direction) {
  on.run(kernels::rope<T>, x, Array<const std::int32_t>{position, x.rows}, head_dim, theta, direction);
}

template <class T>
void attention_forward(KernelDevice& on, Matrix<T> out, Matrix<Wide<T>> lse, const kernels::AttentionInputs<T>& in,
                       const kernels::AttentionShape& shape) {
  on.run(kernels::attention_forward<T>, out, lse, in, shape);
}
template <class T>
void attention_merge(KernelDevice& on, Matrix<Wide<T>> out, Matrix<Wide<T>> lse, Matrix<const T> part_out,
                     Matrix<const Wide<T>> part_lse) {
  on.run(kernels::attention_merge<T>, out, lse, part_out, part_lse);
}
template <class T>
void attention_backward(KernelDevice& on, const kernels::AttentionGradients<T>& grad, Matrix<const T> dout,
                        Matrix<const T> out, Matrix<const Wide<T>> lse, const kernels::AttentionInputs<T>& in,
                        const kernels::AttentionShape& shape) {
  on.run(kernels::attention_backward<T>, grad, dout, out, lse, in, shape);
}

template <class T>
void softmax_forward(KernelDevice& on, Matrix<T> probs, T* lse, Matrix<const T> logits) {
  on.run(kernels::softmax_forward<T>, probs, Array<T>{lse, logits.rows}, logits);
}
template <class T>
void softmax_backward(KernelDevice& on, Matrix<T> dlogits, Matrix<const T> dprobs, Matrix<const T> probs) {
  on.run(kernels::softmax_backward<T>, dlogits, dprobs, probs);
}
template <class T>
void cross_entropy(KernelDevice& on, double* loss, Matrix<T> logits, const std::int32_t* target,
                   const double* grad_scale) {
  on.run(kernels::cross_entropy<T>, Array<double>{loss, logits.rows}, logits,
         Array<const std::int32_t>{target, logits.rows}, Array<const double>{grad_scale, 1});
}

template <class T>
void gather_rows(KernelDevice& on, Matrix<T> out, Matrix<const T> in, const std::int32_t* index) {
  on.run(kernels::gather_rows<T>, out, in, Array<const std::int32_t>{index, out.rows});
}
template <class T>
void unpermute_weighted(KernelDevice& on, Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                        Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight) {
  on.run(kernels::unpermute_weighted<T>, out, residual, rows, row, weight);
}
template <class T>
void unpermute_weighted_backward(KernelDevice& on, const kernels::UnpermuteGradient<T>& grad, Matrix<const T> dout,
                                 Matrix<const T> rows, Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight) {
  on.run(kernels::unpermute_weighted_backward<T>, grad, dout, rows, row, weight);
}
template <class T>
void permute_backward(KernelDevice& on, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const std::int32_t> row,
                      Accumulate accumulate) {
  on.run(kernels::permute_backward<T>, dx, d_rows, row, accumulate);
}
template <class T>
void copy_blocks(KernelDevice& on, Matrix<T> out, Matrix<const T> in, std::span<const kernels::RowBlock> blocks) {
  on.run(kernels::copy_blocks<T>, out, in, blocks);
}
template <class T>
void embedding_forward(KernelDevice& on, Matrix<T> x, Matrix<const T> token_table, const std::int32_t* token,
                       Matrix<const T> position_table, const std::int32_t* position) {
  using Ids = Array<const std::int32_t>;
  on.run(kernels::embedding_forward<T>, x, token_table, Ids{token, x.rows}, position_table, Ids{position, x.rows});
}
template <class T>
void embedding_backward(KernelDevice& on, Matrix<Wide<T>> d_table, const std::int32_t* id, Matrix<const T> dx,
                        Accumulate accumulate) {
  on.run(kernels::embedding_backward<T>, d_table, Array<const std::int32_t>{id, dx.rows}, dx, accumulate);
}

template <class T>
void adamw(KernelDevice& on, T* weight, const kernels::AdamWState<T>& state, const Wide<T>* grad, std::int64_t n,
           const double* clip, const kernels::AdamWOptions& options) {
  const kernels::AdamWFactors factors = kernels::adamw_factors(options);
  on.run(kernels::adamw<T>, Array<T>{weight, n}, OptimizerState<T>{state, n}, Array<const Wide<T>>{grad, n}, n,
         Array<const double>{clip, 1}, Array<const kernels::AdamWFactors>{&factors, 1});
}
inline void clip_factor(KernelDevice& on, double* factor, const double* loss, const double* squares, double clip_norm) {
  using Number = Array<const double>;
  on.run(kernels::clip_factor, Array<double>{factor, 1}, Number{loss, 1}, Number{squares, 1}, clip_norm);
}
template <class T>
void sum_squares(KernelDevice& on, double* out, const T* x, std::int64_t n, double scale = 1.0) {
  on.run(kernels::sum_squares<T>, Array<double>{out, 1}, Array<const T>{x, n}, n, scale);
}
template <class T>
void inner_product(KernelDevice& on, T* out, const T* x, const T* y, std::int64_t n, T scale, Accumulate accumulate) {
  on.run(kernels::inner_product<T>, Array<T>{out, 1}, Array<const T>{x, n}, Array<const T>{y, n}, n, scale, accumulate);
}
template <class T>
void sum_rows(KernelDevice& on, Wide<T>* out, Matrix<const T> x, Accumulate accumulate) {
  on.run(kernels::sum_rows<T>, Array<Wide<T>>{out, x.cols}, x, accumulate);
}
template <class T>
void fill(KernelDevice& on, T* x, std::int64_t n, Wide<T> value) {
  on.run(kernels::fill<T>, Array<T>{x, n}, n, value);
}
template <class T>
void axpy(KernelDevice& on, T* y, const T* x, std::int64_t n, Wide<T> alpha) {
  on.run(kernels::axpy<T>, Array<T>{y, n}, Array<const T>{x, n}, n, alpha);
}
template <class T>
void copy(KernelDevice& on, T* y, const T* x, std::int64_t n) {
  on.run(kernels::copy<T>, Array<T>{y, n}, Array<const T>{x, n}, n);
}
template <class T>
void widen(KernelDevice& on, Matrix<Wide<T>> y, Matrix<const T> x, Accumulate accumulate = Accumulate::kOverwrite) {
  on.run(kernels::widen<T>, y, x, accumulate);
}
template <class T>
void narrow(KernelDevice& on, Matrix<T> y, Matrix<const Wide<T>> x, Accumulate accumulate = Accumulate::kOverwrite) {
  on.run(kernels::narrow<T>, y, x, accumulate);
}
template <class T>
void copy_rows(KernelDevice& on, Matrix<T> y, Matrix<const T> x, Accumulate accumulate = Accumulate::kOverwrite) {
  on.run(kernels::copy_rows<T>, y, x, accumulate);
}

}  // namespace weft::test
