// kernels/cuda/reduce.cu - sums over arrays and columns.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/blas.h"
#include "kernels/cuda/columns.cuh"

namespace weft::kernels::cuda {
namespace {

constexpr std::int64_t kMaxPartials = 1024;

template <class T>
__global__ void square_partials_kernel(double* partial, const T* x, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = global_thread(); i < n; i += static_cast<std::int64_t>(gridDim.x) * blockDim.x) {
    const auto value = static_cast<double>(x[i]);
    sum += value * value;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void total_kernel(double* out, const double* partial, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = sum;
}

/// The number of blocks depends on n alone, so the order of the sum does. The result is copied, not written by a
/// kernel: `out` may be memory of the host that is not pinned (the call then waits for the sum).
template <class T>
void sum_squares(Stream& stream, double* out, const T* x, std::int64_t n) {
  const std::int64_t blocks = std::min(ceil_div(n, kThreads), kMaxPartials);
  const weft::cuda::StreamScratch<double> scratch(native(stream), blocks + 1);
  double *const total = scratch.data(), *const partial = total + 1;
  launch(stream, square_partials_kernel<T>, {blocks}, partial, x, n);
  launch(stream, total_kernel, {1}, total, partial, blocks);
  copy_bytes(stream, out, total, sizeof(double));
}

template <class T>
struct Element {
  Matrix<const T> m;
  __device__ Wide<T> operator()(std::int64_t t, std::int64_t j) const { return m.row(t)[j]; }
};

template <class T>
__global__ void broadcast_row_kernel(Matrix<T> m, const T* row) {
  for (std::int64_t j = threadIdx.x; j < m.cols; j += blockDim.x) m.row(blockIdx.x)[j] = row[j];
}

}  // namespace

template <class T>
void sum_rows(Stream& stream, Wide<T>* out, Matrix<const T> m, Accumulate accumulate) {
  sum_columns(stream, out, m.rows, m.cols, Element<T>{m}, accumulate);
}

template <class T>
void broadcast_row(Stream& stream, Matrix<T> m, const T* row) {
  launch(stream, broadcast_row_kernel<T>, per_row(m.rows, m.cols), m, row);
}

template <class T>
void add_reduce(Backend<T>& table) {
  table.sum_squares = sum_squares<T>;
}

template void add_reduce(Backend<float>& table);
template void add_reduce(Backend<double>& table);
#define WEFT_INSTANTIATE(T)                   \
  template decltype(sum_rows<T>) sum_rows<T>; \
  template decltype(broadcast_row<T>) broadcast_row<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels::cuda
