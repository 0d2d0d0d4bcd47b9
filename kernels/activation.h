// kernels/activation.h - the elementwise middles of a feed-forward network.
// Sources: SwiGLU, Shazeer, arXiv:2002.05202, eq. 6; GELU, Hendrycks and Gimpel, arXiv:1606.08415 (tanh form, GPT-2's).
#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace weft::kernels {

/// h = silu(gate) * up, with gate = gate_up[:, :H] and up = gate_up[:, H:]. h: [R, H]; gate_up: [R, 2H].
template <class T>
void swiglu_forward(Stream& stream, Matrix<T> h, Matrix<const T> gate_up);
/// d_gate_up: [R, 2H] (overwritten; may be the memory of gate_up) from dh: [R, H].
template <class T>
void swiglu_backward(Stream& stream, Matrix<T> d_gate_up, Matrix<const T> dh, Matrix<const T> gate_up);

/// h = gelu(x), tanh form. h, x: [R, H].
template <class T>
void gelu_forward(Stream& stream, Matrix<T> h, Matrix<const T> x);
/// dx: [R, H] (overwritten; may be the memory of x or dh).
template <class T>
void gelu_backward(Stream& stream, Matrix<T> dx, Matrix<const T> dh, Matrix<const T> x);

}  // namespace weft::kernels
