#include "kernels/cpu/backend.h"
#include "kernels/cpu/blas.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void gemm(Stream&, Matrix<T> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b, T alpha,
          Accumulate accumulate) {
  multiply(c, a, trans_a, b, trans_b, alpha, accumulate);
}

template <class T>
void gemm_group(Stream&, std::span<const GemmProduct<T>> products, Transpose trans_a, Transpose trans_b,
                Accumulate accumulate) {
  for (const auto& p : products) multiply(p.c, p.a, trans_a, p.b, trans_b, T(1), accumulate);
}

template <class T>
void linear_forward(Stream&, Matrix<T> y, Matrix<const T> x, Matrix<const T> w, const T* bias) {
  if (bias != nullptr) broadcast_row(y, bias);
  multiply(y, x, Transpose::kNo, w, Transpose::kYes, T(1), bias ? Accumulate::kAdd : Accumulate::kOverwrite);
}

template <class T>
void linear_backward_input(Stream&, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> w, Accumulate accumulate) {
  multiply(dx, dy, Transpose::kNo, w, Transpose::kNo, T(1), accumulate);
}

template <class T>
void linear_backward_weight(Stream&, Matrix<T> dw, T* dbias, Matrix<const T> dy, Matrix<const T> x,
                            Accumulate accumulate) {
  multiply(dw, dy, Transpose::kYes, x, Transpose::kNo, T(1), accumulate);
  if (dbias != nullptr) sum_rows(dbias, dy, accumulate);
}

}  // namespace

template <class T>
void add_gemm(Backend<T>& table) {
  table.gemm = gemm<T>;
  table.gemm_group = gemm_group<T>;
  table.linear_forward = linear_forward<T>;
  table.linear_backward_input = linear_backward_input<T>;
  table.linear_backward_weight = linear_backward_weight<T>;
}

template void add_gemm(Backend<float>& table);
template void add_gemm(Backend<double>& table);

}  // namespace weft::kernels::cpu
