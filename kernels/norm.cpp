#include "kernels/norm.h"

#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void rms_norm_forward(Stream& stream, Matrix<T> y, Wide<T>* rstd, Matrix<const T> x, const T* weight, double eps) {
  check_matrix("rms_norm_forward", "x", x, x.rows, x.cols);
  check_matrix("rms_norm_forward", "y", y, x.rows, x.cols);
  check_array("rms_norm_forward", "weight", weight, x.cols);
  backend<T>(stream).rms_norm_forward(stream, y, rstd, x, weight, eps);
}

template <class T>
void rms_norm_backward(Stream& stream, Matrix<T> dx, Wide<T>* dweight, Matrix<const T> dy, Matrix<const T> x,
                       const Wide<T>* rstd, const T* weight, Accumulate accumulate_dx, Accumulate accumulate_dw) {
  check_matrix("rms_norm_backward", "x", x, x.rows, x.cols);
  check_matrix("rms_norm_backward", "dx", dx, x.rows, x.cols);
  check_matrix("rms_norm_backward", "dy", dy, x.rows, x.cols);
  check_array("rms_norm_backward", "dweight", dweight, x.cols);
  check_array("rms_norm_backward", "rstd", rstd, x.rows);
  check_array("rms_norm_backward", "weight", weight, x.cols);
  backend<T>(stream).rms_norm_backward(stream, dx, dweight, dy, x, rstd, weight, accumulate_dx, accumulate_dw);
}

template <class T>
void layer_norm_forward(Stream& stream, Matrix<T> y, Wide<T>* mean, Wide<T>* rstd, Matrix<const T> x, const T* weight,
                        const T* bias, double eps) {
  check_matrix("layer_norm_forward", "x", x, x.rows, x.cols);
  check_matrix("layer_norm_forward", "y", y, x.rows, x.cols);
  check_array("layer_norm_forward", "weight", weight, x.cols);
  check_array("layer_norm_forward", "bias", bias, x.cols);
  backend<T>(stream).layer_norm_forward(stream, y, mean, rstd, x, weight, bias, eps);
}

template <class T>
void layer_norm_backward(Stream& stream, Matrix<T> dx, Wide<T>* dweight, Wide<T>* dbias, Matrix<const T> dy,
                         Matrix<const T> x, const Wide<T>* mean, const Wide<T>* rstd, const T* weight,
                         Accumulate accumulate_dx, Accumulate accumulate_dw) {
  check_matrix("layer_norm_backward", "x", x, x.rows, x.cols);
  check_matrix("layer_norm_backward", "dx", dx, x.rows, x.cols);
  check_matrix("layer_norm_backward", "dy", dy, x.rows, x.cols);
  check_array("layer_norm_backward", "dweight", dweight, x.cols);
  check_array("layer_norm_backward", "dbias", dbias, x.cols);
  check_array("layer_norm_backward", "mean", mean, x.rows);
  check_array("layer_norm_backward", "rstd", rstd, x.rows);
  check_array("layer_norm_backward", "weight", weight, x.cols);
  backend<T>(stream).layer_norm_backward(stream, dx, dweight, dbias, dy, x, mean, rstd, weight, accumulate_dx,
                                         accumulate_dw);
}

#define WEFT_INSTANTIATE(T)                                       \
  template decltype(rms_norm_forward<T>) rms_norm_forward<T>;     \
  template decltype(rms_norm_backward<T>) rms_norm_backward<T>;   \
  template decltype(layer_norm_forward<T>) layer_norm_forward<T>; \
  template decltype(layer_norm_backward<T>) layer_norm_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
