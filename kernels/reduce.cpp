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
void sum_rows(Stream& stream, T* out, Matrix<const T> x, Accumulate accumulate) {
  check_matrix("sum_rows", "x", x, x.rows, x.cols);
  check_array("sum_rows", "out", out, x.cols);
  backend<T>(stream).sum_rows(stream, out, x, accumulate);
}

template <class T>
void fill(Stream& stream, T* x, std::int64_t n, T value) {
  check_array("fill", "x", x, n);
  backend<T>(stream).fill(stream, x, n, value);
}

template <class T>
void axpy(Stream& stream, T* y, const T* x, std::int64_t n, T alpha) {
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

#define WEFT_INSTANTIATE(T)                             \
  template decltype(sum_squares<T>) sum_squares<T>;     \
  template decltype(inner_product<T>) inner_product<T>; \
  template decltype(sum_rows<T>) sum_rows<T>;           \
  template decltype(fill<T>) fill<T>;                   \
  template decltype(axpy<T>) axpy<T>;                   \
  template decltype(copy<T>) copy<T>;                   \
  template decltype(copy_rows<T>) copy_rows<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
