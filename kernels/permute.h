// kernels/permute.h - moving rows: the copies before and after dispatch and combine, forward and backward.
// Letters: T tokens, K choices per token, R rows that travel, M width. A row index of -1 means "none" (a dropped
// choice).
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/gemm.h"

namespace weft::kernels {

/// out[i] = in[index[i]], or zero where index[i] < 0. out: [N, M]; index: [N].
template <class T>
void gather_rows(Stream& stream, Matrix<T> out, Matrix<const T> in, const std::int32_t* index);

/// The weighted un-permute: out[t] = residual[t] + sum over k of weight[t, k] * rows[row[t, k]], k in ascending order
/// (deterministic). out, residual: [T, M] (residual.data may be nullptr: 0; may be out's memory); rows: [R, M];
/// row: [T, K] i32, -1 = no row; weight: [T, K].
template <class T>
void unpermute_weighted(Stream& stream, Matrix<T> out, Matrix<const T> residual, Matrix<const T> rows,
                        Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight);

/// Backward of unpermute_weighted: d_rows[d_row[t,k]] = weight[t,k] * dout[t] and d_weight[t,k] = <dout[t],
/// rows[row[t,k]]> (0 where row is -1). row and d_row are -1 at the same places; they differ when forward and backward
/// lay out their rows differently. Rows of d_rows that no choice names stay as they are. With equal tables, d_rows may
/// be the memory of rows: each row is read before it is written.
template <class T>
struct UnpermuteGradient {
  Matrix<T> d_rows;                  ///< [R', M]
  Matrix<Wide<T>> d_weight;          ///< [T, K]
  Matrix<const std::int32_t> d_row;  ///< [T, K]
};
template <class T>
void unpermute_weighted_backward(Stream& stream, const UnpermuteGradient<T>& grad, Matrix<const T> dout,
                                 Matrix<const T> rows, Matrix<const std::int32_t> row, Matrix<const Wide<T>> weight);

/// Backward of the permute (gather by token): dx[t] (+)= sum over k of d_rows[row[t, k]], k in ascending order.
template <class T>
void permute_backward(Stream& stream, Matrix<T> dx, Matrix<const T> d_rows, Matrix<const std::int32_t> row,
                      Accumulate accumulate);

}  // namespace weft::kernels
