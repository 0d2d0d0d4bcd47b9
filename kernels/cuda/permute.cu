// kernels/cuda/permute.cu - a block per row that is written; a token's choices are added in order by one thread per
// column.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {
namespace {

/// True for a row there is; reports one past the end.
__device__ bool is_row(std::int32_t index, std::int64_t rows, std::uint64_t* fault, FaultSite site,
                       std::int64_t where) {
  if (index >= rows && threadIdx.x == 0) report(fault, site, where, index);
  return index >= 0 && index < rows;
}

template <class T>
__global__ void gather_rows_kernel(Matrix<T> out, Matrix<const T> in, const std::int32_t* index, std::uint64_t* fault) {
  const std::int32_t from = index[blockIdx.x];
  const bool found = is_row(from, in.rows, fault, FaultSite::kGather, blockIdx.x);
  T* to = out.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < out.cols; j += blockDim.x) to[j] = found ? in.row(from)[j] : T(0);
}

template <class T>
__global__ void unpermute_weighted_kernel(Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                                          Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight,
                                          std::uint64_t* fault) {
  const std::int64_t t = blockIdx.x;
  for (std::int64_t j = threadIdx.x; j < out.cols; j += blockDim.x) {
    Wide<T> sum = residual.data == nullptr ? T(0) : residual.row(t)[j];
    for (std::int64_t k = 0; k < row.cols; ++k) {
      const std::int32_t r = row.row(t)[k];
      if (is_row(r, rows.rows, fault, FaultSite::kUnpermute, t)) sum += weight.row(t)[k] * rows.row(r)[j];
    }
    out.row(t)[j] = sum;
  }
}

/// A block per choice. Each thread reads an element before it writes it: d_rows may be rows.
template <class T>
__global__ void unpermute_weighted_backward_kernel(UnpermuteGradient<T> grad, Matrix<const T> dout,
                                                   Matrix<const T> rows, Matrix<const std::int32_t> row,
                                                   Matrix<const Wide<T>> weight, std::uint64_t* fault) {
  const std::int64_t t = blockIdx.x / row.cols, k = blockIdx.x % row.cols;
  const std::int32_t r = row.row(t)[k], d = grad.d_row.row(t)[k];
  const bool found = is_row(r, rows.rows, fault, FaultSite::kUnpermuteBackward, t) &&
                     is_row(d, grad.d_rows.rows, fault, FaultSite::kUnpermuteBackward, t);
  Wide<T> dot = 0;
  for (std::int64_t j = threadIdx.x; j < dout.cols && found; j += blockDim.x) {
    dot += dout.row(t)[j] * rows.row(r)[j];
    grad.d_rows.row(d)[j] = weight.row(t)[k] * dout.row(t)[j];
  }
  dot = block_sum(dot);
  if (threadIdx.x == 0) grad.d_weight.row(t)[k] = dot;
}

template <class T>
__global__ void permute_backward_kernel(Matrix<T> dx, Matrix<const T> d_rows, Matrix<const std::int32_t> row, bool add,
                                        std::uint64_t* fault) {
  const std::int64_t t = blockIdx.x;
  for (std::int64_t j = threadIdx.x; j < dx.cols; j += blockDim.x) {
    Wide<T> sum = add ? dx.row(t)[j] : T(0);
    for (std::int64_t k = 0; k < row.cols; ++k) {
      const std::int32_t r = row.row(t)[k];
      if (is_row(r, d_rows.rows, fault, FaultSite::kPermuteBackward, t)) sum += d_rows.row(r)[j];
    }
    dx.row(t)[j] = sum;
  }
}

template <class T>
void gather_rows(Stream& stream, Matrix<T> out, Matrix<const T> in, const std::int32_t* index) {
  launch(stream, gather_rows_kernel<T>, per_row(out.rows, out.cols), out, in, index, fault_word(stream));
}
template <class T>
void unpermute_weighted(Stream& stream, Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                        Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight) {
  launch(stream, unpermute_weighted_kernel<T>, per_row(out.rows, out.cols), out, residual, rows, row, weight,
         fault_word(stream));
}
template <class T>
void unpermute_weighted_backward(Stream& stream, const UnpermuteGradient<T>& grad, Matrix<const T> dout,
                                 Matrix<const T> rows, Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight) {
  launch(stream, unpermute_weighted_backward_kernel<T>, per_row(row.rows * row.cols, dout.cols), grad, dout, rows, row,
         weight, fault_word(stream));
}
template <class T>
void permute_backward(Stream& stream, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const std::int32_t> row,
                      Accumulate accumulate) {
  launch(stream, permute_backward_kernel<T>, per_row(dx.rows, dx.cols), dx, d_rows, row, accumulate == Accumulate::kAdd,
         fault_word(stream));
}

}  // namespace

template <class T>
void add_permute(RowKernels<T>& table) {
  table.gather_rows = gather_rows<T>;
  table.unpermute_weighted = unpermute_weighted<T>;
  table.unpermute_weighted_backward = unpermute_weighted_backward<T>;
  table.permute_backward = permute_backward<T>;
}

template void add_permute(RowKernels<float>& table);
template void add_permute(RowKernels<double>& table);
template void add_permute(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
