// kernels/cuda/elementwise.cu - activations, rope and the passes over arrays. See kernels/cpu/ for the formulas.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/vectors.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T>
__global__ void swiglu_forward_kernel(Matrix<T> h, Matrix<const T> gate_up) {
  const T *gate = gate_up.row(blockIdx.x), *up = gate + h.cols;
  T* out = h.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < h.cols; j += blockDim.x) {
    const Wide<T> g = gate[j], u = up[j];
    out[j] = g / (Wide<T>(1) + std::exp(-g)) * u;
  }
}

template <class T>
__global__ void swiglu_backward_kernel(Matrix<T> d_gate_up, Matrix<const T> dh, Matrix<const T> gate_up) {
  const T *gate = gate_up.row(blockIdx.x), *up = gate + dh.cols, *d = dh.row(blockIdx.x);
  T *d_gate = d_gate_up.row(blockIdx.x), *d_up = d_gate + dh.cols;
  for (std::int64_t j = threadIdx.x; j < dh.cols; j += blockDim.x) {  // read before written: d_gate_up may be gate_up
    const Wide<T> g = gate[j], u = up[j], dj = d[j], s = Wide<T>(1) / (Wide<T>(1) + std::exp(-g)), silu = g * s;
    d_gate[j] = dj * u * (s + silu * (Wide<T>(1) - s));
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
    const Wide<T> v = in[j];
    out[j] = Wide<T>(0.5) * v * (Wide<T>(1) + std::tanh(Wide<T>(kGeluA) * v * (Wide<T>(1) + Wide<T>(kGeluB) * v * v)));
  }
}

template <class T>
__global__ void gelu_backward_kernel(Matrix<T> dx, Matrix<const T> dh, Matrix<const T> x) {
  const T *in = x.row(blockIdx.x), *d = dh.row(blockIdx.x);
  T* out = dx.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) {  // read before written: dx may be x or dh
    const Wide<T> v = in[j], tanh_z = std::tanh(Wide<T>(kGeluA) * v * (Wide<T>(1) + Wide<T>(kGeluB) * v * v));
    const Wide<T> dz = Wide<T>(kGeluA) * (Wide<T>(1) + Wide<T>(3 * kGeluB) * v * v);
    out[j] = d[j] * Wide<T>(0.5) * (Wide<T>(1) + tanh_z + v * (Wide<T>(1) - tanh_z * tanh_z) * dz);
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
    const auto c = static_cast<Wide<T>>(cosine), s = static_cast<Wide<T>>(sine);
    for (std::int64_t head = 0; head < x.cols; head += head_dim) {
      T &first_half = row[head + first + i], &second_half = row[head + first + i + head_dim / 2];
      const Wide<T> a = first_half, b = second_half;
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

/// y = x or y += x, one of them in F32.
template <class To, class From>
__global__ void convert_kernel(Matrix<To> y, Matrix<const From> x, bool add) {
  To* to = y.row(blockIdx.x);
  const From* from = x.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < y.cols; j += blockDim.x) {
    const float value = from[j], before = add ? static_cast<float>(to[j]) : 0.0F;
    to[j] = before + value;
  }
}
template <class To, class From>
void convert(Stream& stream, Matrix<To> y, Matrix<const From> x, Accumulate accumulate) {
  launch(stream, convert_kernel<To, From>, per_row(y.rows, y.cols), y, x, accumulate == Accumulate::kAdd);
}

template <class T>
__global__ void fill_kernel(T* x, std::int64_t n, Wide<T> value) {
  if (const std::int64_t i = global_thread(); i < n) x[i] = value;
}
template <class T>
__global__ void axpy_kernel(T* y, const T* x, std::int64_t n, Wide<T> alpha) {
  if (const std::int64_t i = global_thread(); i < n) y[i] = y[i] + alpha * x[i];
}
template <class T, int N>
__global__ void copy_rows_kernel(Matrix<T> y, Matrix<const T> x, bool add) {
  T* to = y.row(blockIdx.x);
  const T* from = x.row(blockIdx.x);
  if (!add) return copy_row<N>(to, from, y.cols);
  for_vectors<N>(y.cols, [&](auto n, std::int64_t j) {
    Vector<T, n> sum = load_vector<n>(to + j);
    const Vector<T, n> more = load_vector<n>(from + j);
#pragma unroll
    for (int e = 0; e < n; ++e) sum.of[e] = sum.of[e] + more.of[e];
    store_vector<n>(to + j, sum);
  });
}

template <class T>
void fill(Stream& stream, T* x, std::int64_t n, Wide<T> value) {
  launch(stream, fill_kernel<T>, per_element(n), x, n, value);
}
template <class T>
void axpy(Stream& stream, T* y, const T* x, std::int64_t n, Wide<T> alpha) {
  launch(stream, axpy_kernel<T>, per_element(n), y, x, n, alpha);
}
template <class T>
void copy(Stream& stream, T* y, const T* x, std::int64_t n) {
  copy_bytes(stream, y, x, n * static_cast<std::int64_t>(sizeof(T)));
}
template <class T>
void copy_rows(Stream& stream, Matrix<T> y, Matrix<const T> x, Accumulate accumulate) {
  by_width<T>(
      [&](auto n) {
        launch(stream, copy_rows_kernel<T, n>, per_row_of_vectors<n>(y.rows, y.cols, kUnderWay), y, x,
               accumulate == Accumulate::kAdd);
      },
      y, x);
}

}  // namespace

template <class T>
void add_elementwise(RowKernels<T>& table) {
  table.swiglu_forward = swiglu_forward<T>;
  table.swiglu_backward = swiglu_backward<T>;
  table.gelu_forward = gelu_forward<T>;
  table.gelu_backward = gelu_backward<T>;
  table.rope = rope<T>;
  table.fill = fill<T>;
  table.axpy = axpy<T>;
  table.copy = copy<T>;
  table.copy_rows = copy_rows<T>;
}

template void add_elementwise(RowKernels<float>& table);
template void add_elementwise(RowKernels<double>& table);
template void add_elementwise(RowKernels<BF16>& table);

void add_conversions(Backend<BF16>& table) {
  table.widen = convert<float, BF16>;
  table.narrow = convert<BF16, float>;
}

}  // namespace weft::kernels::cuda
