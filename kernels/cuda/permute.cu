// kernels/cuda/permute.cu - a block per row that is written; a token's choices are added in order, by one thread for
// 16 bytes of columns.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/vectors.cuh"

namespace weft::kernels::cuda {
namespace {

/// True for a row there is; reports one past the end.
__device__ bool is_row(std::int32_t index, std::int64_t rows, std::uint64_t* fault, FaultSite site,
                       std::int64_t where) {
  if (index >= rows && threadIdx.x == 0) report(fault, site, where, index);
  return index >= 0 && index < rows;
}

template <class T, int N>
__global__ void gather_rows_kernel(Matrix<T> out, Matrix<const T> in, const std::int32_t* index, std::uint64_t* fault) {
  const std::int32_t from = index[blockIdx.x];
  T* to = out.row(blockIdx.x);
  if (is_row(from, in.rows, fault, FaultSite::kGather, blockIdx.x)) return copy_row<N>(to, in.row(from), out.cols);
  for_vectors<N>(out.cols, [&](auto n, std::int64_t j) { store_vector<n>(to + j, Vector<T, n>{}); });
}

/// `sum` + the choices of token t at columns [j, j + N), in order; kUnderWay of them are loaded at a time.
template <int N, class T>
__device__ void add_choices(Wide<T> (&sum)[N], Matrix<const T> rows, Matrix<const std::int32_t> row,
                            Matrix<const Wide<T>> weight, std::int64_t t, std::int64_t j) {
  for (std::int64_t first = 0; first < row.cols; first += kUnderWay) {
    Vector<T, N> v[kUnderWay];
    std::int32_t r[kUnderWay];
#pragma unroll
    for (int i = 0; i < kUnderWay; ++i) {
      r[i] = first + i < row.cols ? row.row(t)[first + i] : -1;
      if (r[i] >= rows.rows) r[i] = -1;
      if (r[i] >= 0) v[i] = load_vector<N>(rows.row(r[i]) + j);
    }
#pragma unroll
    for (int i = 0; i < kUnderWay; ++i) {
      if (r[i] < 0) continue;
      const Wide<T> w = weight.data == nullptr ? Wide<T>(1) : weight.row(t)[first + i];
#pragma unroll
      for (int e = 0; e < N; ++e) sum[e] += w * v[i].of[e];
    }
  }
}

/// A block per token: out = residual (none: 0) + its choices, weighted (no weights: by 1). out may be residual.
template <class T, int N>
__global__ void sum_choices_kernel(Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                                   Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight, FaultSite site,
                                   std::uint64_t* fault) {
  const std::int64_t t = blockIdx.x;
#pragma unroll 1
  for (std::int64_t k = 0; k < row.cols && threadIdx.x == 0; ++k) is_row(row.row(t)[k], rows.rows, fault, site, t);
  for_vectors<N>(out.cols, [&](auto n, std::int64_t j) {
    Vector<T, n> v{};
    if (residual.data != nullptr) v = load_vector<n>(residual.row(t) + j);
    Wide<T> sum[n];
#pragma unroll
    for (int e = 0; e < n; ++e) sum[e] = v.of[e];
    add_choices<n, T>(sum, rows, row, weight, t, j);
#pragma unroll
    for (int e = 0; e < n; ++e) v.of[e] = sum[e];
    store_vector<n>(out.row(t) + j, v);
  });
}

/// A block per choice. Each thread reads elements before it writes them: d_rows may be rows.
template <class T, int N>
__global__ void unpermute_weighted_backward_kernel(UnpermuteGradient<T> grad, Matrix<const T> dout,
                                                   Matrix<const T> rows, Matrix<const std::int32_t> row,
                                                   Matrix<const Wide<T>> weight, std::uint64_t* fault) {
  const std::int64_t t = blockIdx.x / row.cols, k = blockIdx.x % row.cols;
  const std::int32_t r = row.row(t)[k], d = grad.d_row.row(t)[k];
  const bool found = is_row(r, rows.rows, fault, FaultSite::kUnpermuteBackward, t) &&
                     is_row(d, grad.d_rows.rows, fault, FaultSite::kUnpermuteBackward, t);
  const Wide<T> w = weight.row(t)[k];
  Wide<T> dot = 0;
  if (found)
    for_vectors<N>(dout.cols, [&](auto n, std::int64_t j) {
      const Vector<T, n> dv = load_vector<n>(dout.row(t) + j), v = load_vector<n>(rows.row(r) + j);
      Vector<T, n> scaled;
#pragma unroll
      for (int e = 0; e < n; ++e) {
        dot += dv.of[e] * v.of[e];
        scaled.of[e] = w * dv.of[e];
      }
      store_vector<n>(grad.d_rows.row(d) + j, scaled);
    });
  dot = block_sum(dot);
  if (threadIdx.x == 0) grad.d_weight.row(t)[k] = dot;
}

template <class T>
void gather_rows(Stream& stream, Matrix<T> out, Matrix<const T> in, const std::int32_t* index) {
  by_width<T>(
      [&](auto n) {
        launch(stream, gather_rows_kernel<T, n>, per_row_of_vectors<n>(out.rows, out.cols, kUnderWay), out, in, index,
               fault_word(stream));
      },
      out, in);
}

template <class T>
void sum_choices(Stream& stream, Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                 Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight, FaultSite site) {
  by_width<T>(
      [&](auto n) {
        launch(stream, sum_choices_kernel<T, n>, per_row_of_vectors<n>(out.rows, out.cols, 1), out, residual, rows, row,
               weight, site, fault_word(stream));
      },
      out, residual, rows);
}
template <class T>
void unpermute_weighted(Stream& stream, Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                        Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight) {
  sum_choices<T>(stream, out, residual, rows, row, weight, FaultSite::kUnpermute);
}
template <class T>
void permute_backward(Stream& stream, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const std::int32_t> row,
                      Accumulate accumulate) {
  const Matrix<const T> before = accumulate == Accumulate::kAdd ? Matrix<const T>(dx) : Matrix<const T>();
  sum_choices<T>(stream, dx, before, d_rows, row, {}, FaultSite::kPermuteBackward);
}

template <class T>
void unpermute_weighted_backward(Stream& stream, const UnpermuteGradient<T>& grad, Matrix<const T> dout,
                                 Matrix<const T> rows, Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight) {
  by_width<T>(
      [&](auto n) {
        launch(stream, unpermute_weighted_backward_kernel<T, n>,
               per_row_of_vectors<n>(row.rows * row.cols, dout.cols, 1), grad, dout, rows, row, weight,
               fault_word(stream));
      },
      grad.d_rows, dout, rows);
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
