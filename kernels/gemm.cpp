#include "kernels/gemm.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {
namespace {

void check_product(const char* kernel, const MatrixShape& c, const MatrixShape& a, Transpose trans_a,
                   const MatrixShape& b, Transpose trans_b) {
  const bool ta = trans_a == Transpose::kYes, tb = trans_b == Transpose::kYes;
  const std::int64_t inner = ta ? a.rows : a.cols;
  check_matrix(kernel, "c", c, c.rows, c.cols);
  check_matrix(kernel, "a", a, ta ? inner : c.rows, ta ? c.rows : inner);
  check_matrix(kernel, "b", b, tb ? c.cols : inner, tb ? inner : c.cols);
}

}  // namespace

template <class T>
void gemm(Stream& stream, Matrix<T> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b,
          Wide<T> alpha, Accumulate accumulate) {
  check_product("gemm", c, a, trans_a, b, trans_b);
  backend<T>(stream).gemm(stream, c, a, trans_a, b, trans_b, alpha, accumulate);
}

template <class T, class Out>
void gemm_group(Stream& stream, std::span<const GemmProduct<T, Out>> products, Transpose trans_a, Transpose trans_b,
                Accumulate accumulate) {
  for (const auto& p : products) check_product("gemm_group", p.c, p.a, trans_a, p.b, trans_b);
  if constexpr (std::is_same_v<T, Out>)
    backend<T>(stream).gemm_group(stream, products, trans_a, trans_b, accumulate);
  else
    backend<T>(stream).gemm_group_wide(stream, products, trans_a, trans_b, accumulate);
}

template <class T>
void linear_forward(Stream& stream, Matrix<T> y, Matrix<const T> x, Matrix<const T> w, const T* bias) {
  check_matrix("linear_forward", "y", y, x.rows, w.rows);
  check_matrix("linear_forward", "x", x, x.rows, w.cols);
  check_matrix("linear_forward", "w", w, w.rows, w.cols);
  backend<T>(stream).linear_forward(stream, y, x, w, bias);
}

template <class T>
void linear_backward_input(Stream& stream, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> w, Accumulate accumulate) {
  check_matrix("linear_backward_input", "dx", dx, dy.rows, w.cols);
  check_matrix("linear_backward_input", "dy", dy, dy.rows, w.rows);
  check_matrix("linear_backward_input", "w", w, w.rows, w.cols);
  backend<T>(stream).linear_backward_input(stream, dx, dy, w, accumulate);
}

template <class T>
void linear_backward_weight(Stream& stream, Matrix<Wide<T>> dw, Wide<T>* dbias, Matrix<const T> dy, Matrix<const T> x,
                            Accumulate accumulate) {
  check_matrix("linear_backward_weight", "dw", dw, dy.cols, x.cols);
  check_matrix("linear_backward_weight", "dy", dy, x.rows, dy.cols);
  check_matrix("linear_backward_weight", "x", x, x.rows, x.cols);
  backend<T>(stream).linear_backward_weight(stream, dw, dbias, dy, x, accumulate);
}

template <class T>
void linear_forward_wide(Stream& stream, Matrix<Wide<T>> y, Matrix<const T> x, Matrix<const T> w) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    linear_forward<T>(stream, y, x, w);
  } else {
    check_matrix("linear_forward_wide", "y", y, x.rows, w.rows);
    check_matrix("linear_forward_wide", "x", x, x.rows, w.cols);
    check_matrix("linear_forward_wide", "w", w, w.rows, w.cols);
    backend<T>(stream).linear_forward_wide(stream, y, x, w);
  }
}

template <class T>
void linear_backward_input_wide(Stream& stream, Matrix<T> dx, Matrix<const Wide<T>> dy, Matrix<const T> w,
                                Accumulate accumulate) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    linear_backward_input<T>(stream, dx, dy, w, accumulate);
  } else {
    check_matrix("linear_backward_input_wide", "dx", dx, dy.rows, w.cols);
    check_matrix("linear_backward_input_wide", "dy", dy, dy.rows, w.rows);
    check_matrix("linear_backward_input_wide", "w", w, w.rows, w.cols);
    backend<T>(stream).linear_backward_input_wide(stream, dx, dy, w, accumulate);
  }
}

template <class T>
void linear_backward_weight_wide(Stream& stream, Matrix<Wide<T>> dw, Matrix<const Wide<T>> dy, Matrix<const T> x,
                                 Accumulate accumulate) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    linear_backward_weight<T>(stream, dw, nullptr, dy, x, accumulate);
  } else {
    check_matrix("linear_backward_weight_wide", "dw", dw, dy.cols, x.cols);
    check_matrix("linear_backward_weight_wide", "dy", dy, x.rows, dy.cols);
    check_matrix("linear_backward_weight_wide", "x", x, x.rows, x.cols);
    backend<T>(stream).linear_backward_weight_wide(stream, dw, dy, x, accumulate);
  }
}

#define WEFT_INSTANTIATE(T)                                                       \
  template decltype(gemm<T>) gemm<T>;                                             \
  template decltype(gemm_group<T>) gemm_group<T>;                                 \
  template decltype(linear_forward<T>) linear_forward<T>;                         \
  template decltype(linear_backward_input<T>) linear_backward_input<T>;           \
  template decltype(linear_backward_weight<T>) linear_backward_weight<T>;         \
  template decltype(linear_forward_wide<T>) linear_forward_wide<T>;               \
  template decltype(linear_backward_input_wide<T>) linear_backward_input_wide<T>; \
  template decltype(linear_backward_weight_wide<T>) linear_backward_weight_wide<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE
template decltype(gemm_group<BF16, float>) gemm_group<BF16, float>;

}  // namespace weft::kernels
