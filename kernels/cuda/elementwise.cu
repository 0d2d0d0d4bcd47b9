// kernels/cuda/elementwise.cu - activations, rope, AdamW and the passes over arrays. See kernels/cpu/ for the formulas.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T>
__global__ void swiglu_forward_kernel(Matrix<T> h, Matrix<const T> gate_up) {
  const T *gate = gate_up.row(blockIdx.x), *up = gate + h.cols;
  T* out = h.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < h.cols; j += blockDim.x)
    out[j] = gate[j] / (T(1) + std::exp(-gate[j])) * up[j];
}

template <class T>
__global__ void swiglu_backward_kernel(Matrix<T> d_gate_up, Matrix<const T> dh, Matrix<const T> gate_up) {
  const T *gate = gate_up.row(blockIdx.x), *up = gate + dh.cols, *d = dh.row(blockIdx.x);
  T *d_gate = d_gate_up.row(blockIdx.x), *d_up = d_gate + dh.cols;
  for (std::int64_t j = threadIdx.x; j < dh.cols; j += blockDim.x) {  // read before written: d_gate_up may be gate_up
    const T g = gate[j], u = up[j], dj = d[j], s = T(1) / (T(1) + std::exp(-g)), silu = g * s;
    d_gate[j] = dj * u * (s + silu * (T(1) - s));
    d_up[j] = dj * silu;
  }
}

constexpr double kGeluA = 0.79788456080286535588;  // sqrt(2 / pi)
constexpr double kGeluB = 0.044715;

template <class T>
__global__ void gelu_forward_kernel(Matrix<T> h, Matrix<const T> x) {
  const T* in = x.row(blockIdx.x);
  T* out = h.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) {
    const T v = in[j];
    out[j] = T(0.5) * v * (T(1) + std::tanh(T(kGeluA) * v * (T(1) + T(kGeluB) * v * v)));
  }
}

template <class T>
__global__ void gelu_backward_kernel(Matrix<T> dx, Matrix<const T> dh, Matrix<const T> x) {
  const T *in = x.row(blockIdx.x), *d = dh.row(blockIdx.x);
  T* out = dx.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) {  // read before written: dx may be x or dh
    const T v = in[j], tanh_z = std::tanh(T(kGeluA) * v * (T(1) + T(kGeluB) * v * v));
    const T dz = T(kGeluA) * (T(1) + T(3 * kGeluB) * v * v);
    out[j] = d[j] * T(0.5) * (T(1) + tanh_z + v * (T(1) - tanh_z * tanh_z) * dz);
  }
}

template <class T>
void swiglu_forward(Stream& stream, Matrix<T> h, Matrix<const T> gate_up) {
  launch(stream, swiglu_forward_kernel<T>, per_row(h.rows, h.cols), h, gate_up);
}
template <class T>
void swiglu_backward(Stream& stream, Matrix<T> d_gate_up, Matrix<const T> dh, Matrix<const T> gate_up) {
  launch(stream, swiglu_backward_kernel<T>, per_row(dh.rows, dh.cols), d_gate_up, dh, gate_up);
}
template <class T>
void gelu_forward(Stream& stream, Matrix<T> h, Matrix<const T> x) {
  launch(stream, gelu_forward_kernel<T>, per_row(x.rows, x.cols), h, x);
}
template <class T>
void gelu_backward(Stream& stream, Matrix<T> dx, Matrix<const T> dh, Matrix<const T> x) {
  launch(stream, gelu_backward_kernel<T>, per_row(x.rows, x.cols), dx, dh, x);
}

/// Angles per position of some pairs of a head. From the host: its pow gives the same bits as the CPU backend's, and an
/// angle multiplies an error by the position.
constexpr std::int64_t kMaxPairs = 256;
struct Frequencies {
  double of_pair[kMaxPairs];
};

/// Pairs [first, first + count) of every head of a row.
template <class T>
__global__ void rope_kernel(Matrix<T> x, const std::int32_t* position, std::int64_t head_dim, Frequencies frequency,
                            std::int64_t first, std::int64_t count) {
  const double p = position[blockIdx.x];
  T* row = x.row(blockIdx.x);
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) {
    double sine, cosine;
    sincos(p * frequency.of_pair[i], &sine, &cosine);
    const T c = static_cast<T>(cosine), s = static_cast<T>(sine);
    for (std::int64_t head = 0; head < x.cols; head += head_dim) {
      T &first_half = row[head + first + i], &second_half = row[head + first + i + head_dim / 2];
      const T a = first_half, b = second_half;
      first_half = a * c - b * s;
      second_half = b * c + a * s;
    }
  }
}

template <class T>
void rope(Stream& stream, Matrix<T> x, const std::int32_t* position, std::int64_t head_dim, double theta,
          RopeDirection direction) {
  const std::int64_t half = head_dim / 2;
  for (std::int64_t first = 0; first < half; first += kMaxPairs) {
    const std::int64_t count = std::min(half - first, kMaxPairs);
    Frequencies frequency{};
    for (std::int64_t i = 0; i < count; ++i)
      frequency.of_pair[i] = std::pow(theta, -static_cast<double>(first + i) / static_cast<double>(half)) *
                             (direction == RopeDirection::kForward ? 1.0 : -1.0);
    launch(stream, rope_kernel<T>, per_row(x.rows, count), x, position, head_dim, frequency, first, count);
  }
}

template <class T>
struct AdamWFactors {
  T beta1, beta2, rest1, rest2, rate, correction2, keep, eps;
};

__global__ void clip_factor_kernel(double* factor, const double* loss, const double* squares, double clip_norm) {
  const double norm = std::sqrt(*squares);
  if (std::isfinite(*loss) && std::isfinite(norm))
    *factor = clip_norm > 0.0 && norm > clip_norm ? clip_norm / norm : 1.0;
  else
    *factor = std::numeric_limits<double>::quiet_NaN();
}

void clip_factor(Stream& stream, double* factor, const double* loss, const double* squares, double clip_norm) {
  launch(stream, clip_factor_kernel, {1, 1, kWarp}, factor, loss, squares, clip_norm);
}

template <class T>
__global__ void adamw_kernel(T* weight, T* m, T* v, const T* grad, std::int64_t n, const double* factor,
                             AdamWFactors<T> f) {
  const std::int64_t i = global_thread();
  if (i >= n || (factor != nullptr && !std::isfinite(*factor))) return;
  const T g = factor != nullptr ? grad[i] * static_cast<T>(*factor) : grad[i];
  const T m_new = f.beta1 * m[i] + f.rest1 * g;
  const T v_new = f.beta2 * v[i] + f.rest2 * g * g;
  m[i] = m_new;
  v[i] = v_new;
  weight[i] = f.keep * weight[i] - f.rate * m_new / (std::sqrt(v_new) * f.correction2 + f.eps);
}

template <class T>
void adamw(Stream& stream, T* weight, T* m, T* v, const T* grad, std::int64_t n, const double* factor,
           const AdamWOptions& options) {
  const auto step = static_cast<double>(options.step);
  AdamWFactors<T> f;
  f.beta1 = static_cast<T>(options.beta1);
  f.beta2 = static_cast<T>(options.beta2);
  f.rest1 = static_cast<T>(1.0 - options.beta1);
  f.rest2 = static_cast<T>(1.0 - options.beta2);
  f.rate = static_cast<T>(options.lr / (1.0 - std::pow(options.beta1, step)));
  f.correction2 = static_cast<T>(1.0 / std::sqrt(1.0 - std::pow(options.beta2, step)));
  f.keep = static_cast<T>(1.0 - options.lr * options.weight_decay);
  f.eps = static_cast<T>(options.eps);
  launch(stream, adamw_kernel<T>, per_element(n), weight, m, v, grad, n, factor, f);
}

template <class T>
__global__ void fill_kernel(T* x, std::int64_t n, T value) {
  if (const std::int64_t i = global_thread(); i < n) x[i] = value;
}
template <class T>
__global__ void axpy_kernel(T* y, const T* x, std::int64_t n, T alpha) {
  if (const std::int64_t i = global_thread(); i < n) y[i] += alpha * x[i];
}
template <class T>
__global__ void copy_rows_kernel(Matrix<T> y, Matrix<const T> x, bool add) {
  T* to = y.row(blockIdx.x);
  const T* from = x.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < y.cols; j += blockDim.x) to[j] = add ? to[j] + from[j] : from[j];
}

template <class T>
void fill(Stream& stream, T* x, std::int64_t n, T value) {
  launch(stream, fill_kernel<T>, per_element(n), x, n, value);
}
template <class T>
void axpy(Stream& stream, T* y, const T* x, std::int64_t n, T alpha) {
  launch(stream, axpy_kernel<T>, per_element(n), y, x, n, alpha);
}
template <class T>
void copy(Stream& stream, T* y, const T* x, std::int64_t n) {
  copy_bytes(stream, y, x, n * static_cast<std::int64_t>(sizeof(T)));
}
template <class T>
void copy_rows(Stream& stream, Matrix<T> y, Matrix<const T> x, Accumulate accumulate) {
  launch(stream, copy_rows_kernel<T>, per_row(y.rows, y.cols), y, x, accumulate == Accumulate::kAdd);
}

}  // namespace

template <class T>
void add_elementwise(Backend<T>& table) {
  table.swiglu_forward = swiglu_forward<T>;
  table.swiglu_backward = swiglu_backward<T>;
  table.gelu_forward = gelu_forward<T>;
  table.gelu_backward = gelu_backward<T>;
  table.rope = rope<T>;
  table.clip_factor = clip_factor;
  table.adamw = adamw<T>;
  table.fill = fill<T>;
  table.axpy = axpy<T>;
  table.copy = copy<T>;
  table.copy_rows = copy_rows<T>;
}

template void add_elementwise(Backend<float>& table);
template void add_elementwise(Backend<double>& table);

}  // namespace weft::kernels::cuda
