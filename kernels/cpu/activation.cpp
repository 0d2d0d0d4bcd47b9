#include "kernels/cpu/backend.h"
#include "kernels/cpu/vector_math.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void swiglu_forward(Stream&, Matrix<T> h, Matrix<const T> gate_up) {
  for (std::int64_t i = 0; i < h.rows; ++i) {
    const T *gate = gate_up.row(i), *up = gate + h.cols;
    T* out = h.row(i);
#pragma omp simd
    for (std::int64_t j = 0; j < h.cols; ++j) out[j] = gate[j] * sigmoid(gate[j]) * up[j];
  }
}

/// silu'(g) = s + g s (1 - s), s = sigmoid(g).
template <class T>
void swiglu_backward(Stream&, Matrix<T> d_gate_up, Matrix<const T> dh, Matrix<const T> gate_up) {
  for (std::int64_t i = 0; i < dh.rows; ++i) {
    const T *gate = gate_up.row(i), *up = gate + dh.cols, *d = dh.row(i);
    T *d_gate = d_gate_up.row(i), *d_up = d_gate + dh.cols;
#pragma omp simd  // each element is read before it is written: d_gate_up may be gate_up
    for (std::int64_t j = 0; j < dh.cols; ++j) {
      const T g = gate[j], u = up[j], s = sigmoid(g), silu = g * s;
      d_gate[j] = d[j] * u * (s + silu * (T(1) - s));
      d_up[j] = d[j] * silu;
    }
  }
}

// gelu(x) = x/2 (1 + tanh(z)), z = a (x + b x^3)
constexpr double kGeluA = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double kGeluB = 0.044715;

template <class T>
void gelu_forward(Stream&, Matrix<T> h, Matrix<const T> x) {
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const T* in = x.row(i);
    T* out = h.row(i);
#pragma omp simd
    for (std::int64_t j = 0; j < x.cols; ++j) {
      const T v = in[j];
      out[j] = T(0.5) * v * (T(1) + tanh(T(kGeluA) * v * (T(1) + T(kGeluB) * v * v)));
    }
  }
}

template <class T>
void gelu_backward(Stream&, Matrix<T> dx, Matrix<const T> dh, Matrix<const T> x) {
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const T *in = x.row(i), *d = dh.row(i);
    T* out = dx.row(i);
#pragma omp simd
    for (std::int64_t j = 0; j < x.cols; ++j) {
      const T v = in[j], tanh_z = tanh(T(kGeluA) * v * (T(1) + T(kGeluB) * v * v));
      const T dz = T(kGeluA) * (T(1) + T(3 * kGeluB) * v * v);
      out[j] = d[j] * T(0.5) * (T(1) + tanh_z + v * (T(1) - tanh_z * tanh_z) * dz);
    }
  }
}

}  // namespace

template <class T>
void add_activation(Backend<T>& table) {
  table.swiglu_forward = swiglu_forward<T>;
  table.swiglu_backward = swiglu_backward<T>;
  table.gelu_forward = gelu_forward<T>;
  table.gelu_backward = gelu_backward<T>;
}

template void add_activation(Backend<float>& table);
template void add_activation(Backend<double>& table);

}  // namespace weft::kernels::cpu
