// kernels/cuda/columns.cuh - sums down the columns of a matrix, in a fixed order: the gradients of weights of norms and
// of biases.
#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/gemm.h"

namespace weft::kernels::cuda {

/// partial[c, j] = sum of term(t, j) over the rows of chunk c, in ascending order.
template <class T, class Term>
__global__ void column_partials_kernel(Matrix<T> partial, std::int64_t rows, std::int64_t chunk_rows, Term term) {
  const std::int64_t j = global_thread(), first = static_cast<std::int64_t>(blockIdx.y) * chunk_rows;
  if (j >= partial.cols) return;
  T sum = 0;
  for (std::int64_t t = first; t < first + chunk_rows && t < rows; ++t) sum += term(t, j);
  partial.row(blockIdx.y)[j] = sum;
}

/// out[j] (+)= sum of partial[c, j] over chunks, in ascending order.
template <class T>
__global__ void column_totals_kernel(T* out, Matrix<const T> partial, bool add) {
  const std::int64_t j = global_thread();
  if (j >= partial.cols) return;
  T sum = add ? out[j] : T(0);
  for (std::int64_t c = 0; c < partial.rows; ++c) sum += partial.row(c)[j];
  out[j] = sum;
}

/// out[j] (+)= sum over rows t of term(t, j), j < cols. Two passes: enough blocks for a tall matrix, and no atomics.
template <class T, class Term>
void sum_columns(Stream& stream, T* out, std::int64_t rows, std::int64_t cols, const Term& term,
                 Accumulate accumulate) {
  if (cols == 0) return;
  constexpr std::int64_t kChunkRows = 64, kMaxChunks = 512;
  const std::int64_t chunk_rows = std::max(kChunkRows, ceil_div(rows, kMaxChunks));
  const std::int64_t chunks = ceil_div(rows, chunk_rows);
  const weft::cuda::StreamScratch<T> scratch(native(stream), chunks * cols);
  const Matrix<T> partial(scratch.data(), chunks, cols);
  Shape shape = per_element(cols);
  shape.blocks_y = chunks;
  launch(stream, column_partials_kernel<T, Term>, shape, partial, rows, chunk_rows, term);
  launch(stream, column_totals_kernel<T>, per_element(cols), out, Matrix<const T>(partial),
         accumulate == Accumulate::kAdd);
}

}  // namespace weft::kernels::cuda
