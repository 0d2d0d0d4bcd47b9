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

template <class T>
__global__ void product_partials_kernel(T* partial, const T* x, const T* y, std::int64_t n) {
  T sum = 0;
  for (std::int64_t i = global_thread(); i < n; i += static_cast<std::int64_t>(gridDim.x) * blockDim.x)
    sum += x[i] * y[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <class T>
__global__ void total_kernel(T* out, const T* partial, std::int64_t n, T scale, bool add) {
  T sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *out = (add ? *out : T(0)) + scale * sum;
}

/// The number of blocks depends on n alone, so the order of the sum does.
std::int64_t num_partials(std::int64_t n) { return std::min(ceil_div(n, kThreads), kMaxPartials); }

template <class T>
void sum_squares(Stream& stream, double* out, const T* x, std::int64_t n, double scale) {
  const weft::cuda::StreamScratch<double> partial(native(stream), num_partials(n));
  launch(stream, square_partials_kernel<T>, {num_partials(n)}, partial.data(), x, n);
  launch(stream, total_kernel<double>, {1}, out, partial.data(), num_partials(n), scale, false);
}

template <class T>
void inner_product(Stream& stream, T* out, const T* x, const T* y, std::int64_t n, T scale, Accumulate accumulate) {
  const weft::cuda::StreamScratch<T> partial(native(stream), num_partials(n));
  launch(stream, product_partials_kernel<T>, {num_partials(n)}, partial.data(), x, y, n);
  launch(stream, total_kernel<T>, {1}, out, partial.data(), num_partials(n), scale, accumulate == Accumulate::kAdd);
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

template <class T>
void sum_rows(Stream& stream, Wide<T>* out, Matrix<const T> m, Accumulate accumulate) {
  sum_columns(stream, out, m.rows, m.cols, Element<T>{m}, accumulate);
}

}  // namespace

template <class T>
void broadcast_row(Stream& stream, Matrix<T> m, const T* row) {
  launch(stream, broadcast_row_kernel<T>, per_row(m.rows, m.cols), m, row);
}

template <class T>
void add_reduce(Backend<T>& table) {
  table.sum_squares = sum_squares<T>;
  table.inner_product = inner_product<T>;
}
template void add_reduce(Backend<float>& table);
template void add_reduce(Backend<double>& table);

template <class T>
void add_row_sums(RowKernels<T>& table) {
  table.sum_rows = sum_rows<T>;
}

#define WEFT_INSTANTIATE(T)                             \
  template decltype(broadcast_row<T>) broadcast_row<T>; \
  template void add_row_sums(RowKernels<T>& table);
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels::cuda
