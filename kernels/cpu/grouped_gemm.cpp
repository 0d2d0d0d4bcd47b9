#include "kernels/cpu/backend.h"
#include "kernels/cpu/blas.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
Matrix<T> weight_of(const ExpertWeights<T>& w, std::size_t e) {
  return {w.data + static_cast<std::int64_t>(e) * w.expert_stride, w.out_width, w.in_width};
}
template <class T>
T* bias_of(const ExpertWeights<T>& w, std::size_t e) {
  return w.bias == nullptr ? nullptr : w.bias + static_cast<std::int64_t>(e) * w.bias_stride;
}

template <class T>
Matrix<T> rows_of(Matrix<T> m, std::span<const std::int64_t> offsets, std::size_t e) {
  return m.row_range(offsets[e], offsets[e + 1] - offsets[e]);
}

template <class T>
void grouped_linear_forward(Stream&, Matrix<T> y, Matrix<const T> x, ExpertWeights<const T> w,
                            std::span<const std::int64_t> offsets) {
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    const Matrix<T> y_e = rows_of(y, offsets, e);
    const T* bias = bias_of(w, e);
    if (bias != nullptr) broadcast_row(y_e, bias);
    multiply(y_e, rows_of(x, offsets, e), Transpose::kNo, weight_of(w, e), Transpose::kYes, T(1),
             bias ? Accumulate::kAdd : Accumulate::kOverwrite);
  }
}

template <class T>
void grouped_linear_backward_input(Stream&, Matrix<T> dx, Matrix<const T> dy, ExpertWeights<const T> w,
                                   std::span<const std::int64_t> offsets, Accumulate accumulate) {
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e)
    multiply(rows_of(dx, offsets, e), rows_of(dy, offsets, e), Transpose::kNo, weight_of(w, e), Transpose::kNo, T(1),
             accumulate);
}

template <class T>
void grouped_linear_backward_weight(Stream&, ExpertWeights<T> dw, Matrix<const T> dy, Matrix<const T> x,
                                    std::span<const std::int64_t> offsets, Accumulate accumulate) {
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    const Matrix<const T> dy_e = rows_of(dy, offsets, e);
    multiply(weight_of(dw, e), dy_e, Transpose::kYes, rows_of(x, offsets, e), Transpose::kNo, T(1), accumulate);
    if (T* dbias = bias_of(dw, e)) sum_rows(dbias, dy_e, accumulate);
  }
}

}  // namespace

template <class T>
void add_grouped_gemm(Backend<T>& table) {
  table.grouped_linear_forward = grouped_linear_forward<T>;
  table.grouped_linear_backward_input = grouped_linear_backward_input<T>;
  table.grouped_linear_backward_weight = grouped_linear_backward_weight<T>;
}

template void add_grouped_gemm(Backend<float>& table);
template void add_grouped_gemm(Backend<double>& table);

}  // namespace weft::kernels::cpu
