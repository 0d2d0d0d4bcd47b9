#include "kernels/reduce.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void sum_squares(Stream& stream, double* out, const T* x, std::int64_t n, double scale) {
  check_array("sum_squares", "out", out, 1);
  check_array("sum_squares", "x", x, n);
  backend<T>(stream).sum_squares(stream, out, x, n, scale);
}

template <class T>
void inner_product(Stream& stream, T* out, const T* x, const T* y, std::int64_t n, T scale, Accumulate accumulate) {
  check_array("inner_product", "out", out, 1);
  check_array("inner_product", "x", x, n);
  check_array("inner_product", "y", y, n);
  backend<T>(stream).inner_product(stream, out, x, y, n, scale, accumulate);
}

template <class T>
void sum_rows(Stream& stream, Wide<T>* out, Matrix<const T> x, Accumulate accumulate) {
  check_matrix("sum_rows", "x", x, x.rows, x.cols);
  check_array("sum_rows", "out", out, x.cols);
  backend<T>(stream).sum_rows(stream, out, x, accumulate);
}

template <class T>
void fill(Stream& stream, T* x, std::int64_t n, Wide<T> value) {
  check_array("fill", "x", x, n);
  backend<T>(stream).fill(stream, x, n, value);
}

template <class T>
void axpy(Stream& stream, T* y, const T* x, std::int64_t n, Wide<T> alpha) {
  check_array("axpy", "y", y, n);
  check_array("axpy", "x", x, n);
  backend<T>(stream).axpy(stream, y, x, n, alpha);
}

template <class T>
void copy(Stream& stream, T* y, const T* x, std::int64_t n) {
  check_array("copy", "y", y, n);
  check_array("copy", "x", x, n);
  backend<T>(stream).copy(stream, y, x, n);
}

template <class T>
void copy_rows(Stream& stream, Matrix<T> y, Matrix<const T> x, Accumulate accumulate) {
  check_matrix("copy_rows", "y", y, y.rows, y.cols);
  check_matrix("copy_rows", "x", x, y.rows, y.cols);
  backend<T>(stream).copy_rows(stream, y, x, accumulate);
}

template <class T>
void widen(Stream& stream, Matrix<Wide<T>> y, Matrix<const T> x, Accumulate accumulate) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    copy_rows<T>(stream, y, x, accumulate);
  } else {
    check_matrix("widen", "y", y, y.rows, y.cols);
    check_matrix("widen", "x", x, y.rows, y.cols);
    backend<T>(stream).widen(stream, y, x, accumulate);
  }
}

template <class T>
void narrow(Stream& stream, Matrix<T> y, Matrix<const Wide<T>> x, Accumulate accumulate) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    copy_rows<T>(stream, y, x, accumulate);
  } else {
    check_matrix("narrow", "y", y, y.rows, y.cols);
    check_matrix("narrow", "x", x, y.rows, y.cols);
    backend<T>(stream).narrow(stream, y, x, accumulate);
  }
}

template decltype(sum_squares<float>) sum_squares<float>;
template decltype(sum_squares<double>) sum_squares<double>;
template decltype(inner_product<float>) inner_product<float>;
template decltype(inner_product<double>) inner_product<double>;
#define WEFT_INSTANTIATE(T)                   \
  template decltype(sum_rows<T>) sum_rows<T>; \
  template decltype(fill<T>) fill<T>;         \
  template decltype(axpy<T>) axpy<T>;         \
  template decltype(copy<T>) copy<T>;         \
  template decltype(widen<T>) widen<T>;       \
  template decltype(narrow<T>) narrow<T>;     \
  template decltype(copy_rows<T>) copy_rows<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
