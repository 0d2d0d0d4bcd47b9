#include "kernels/activation.h"

#include "core/bf16.h"
#include "kernels/backend.h"
#include "kernels/check.h"

namespace weft::kernels {

template <class T>
void swiglu_forward(Stream& stream, Matrix<T> h, Matrix<const T> gate_up) {
  check_matrix("swiglu_forward", "h", h, gate_up.rows, h.cols);
  check_matrix("swiglu_forward", "gate_up", gate_up, gate_up.rows, 2 * h.cols);
  backend<T>(stream).swiglu_forward(stream, h, gate_up);
}

template <class T>
void swiglu_backward(Stream& stream, Matrix<T> d_gate_up, Matrix<const T> dh, Matrix<const T> gate_up) {
  check_matrix("swiglu_backward", "dh", dh, gate_up.rows, dh.cols);
  check_matrix("swiglu_backward", "gate_up", gate_up, gate_up.rows, 2 * dh.cols);
  check_matrix("swiglu_backward", "d_gate_up", d_gate_up, gate_up.rows, 2 * dh.cols);
  backend<T>(stream).swiglu_backward(stream, d_gate_up, dh, gate_up);
}

template <class T>
void gelu_forward(Stream& stream, Matrix<T> h, Matrix<const T> x) {
  check_matrix("gelu_forward", "x", x, x.rows, x.cols);
  check_matrix("gelu_forward", "h", h, x.rows, x.cols);
  backend<T>(stream).gelu_forward(stream, h, x);
}

template <class T>
void gelu_backward(Stream& stream, Matrix<T> dx, Matrix<const T> dh, Matrix<const T> x) {
  check_matrix("gelu_backward", "x", x, x.rows, x.cols);
  check_matrix("gelu_backward", "dx", dx, x.rows, x.cols);
  check_matrix("gelu_backward", "dh", dh, x.rows, x.cols);
  backend<T>(stream).gelu_backward(stream, dx, dh, x);
}

#define WEFT_INSTANTIATE(T)                                 \
  template decltype(swiglu_forward<T>) swiglu_forward<T>;   \
  template decltype(swiglu_backward<T>) swiglu_backward<T>; \
  template decltype(gelu_forward<T>) gelu_forward<T>;       \
  template decltype(gelu_backward<T>) gelu_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
