// kernels/cpu/few_rows.h - products of a handful of rows with a large matrix: an expert with few tokens, or generation.
// BLAS packs the large matrix before it multiplies, which costs more than the product when it is used so little.
#pragma once

#include "kernels/gemm.h"

namespace weft::kernels::cpu {

/// Up to this many rows, multiply_few_rows beats OpenBLAS (by 1.4 at 1 row of 512 x 2048 in f32, by 1.3 at 4).
inline constexpr std::int64_t kFewRows = 4;

/// c = alpha * a b^T, or c += ...; c: [1 to kFewRows, n]. b is read once, in the order it lies in memory.
template <class T>
void multiply_few_rows(Matrix<T> c, Matrix<const T> a, Matrix<const T> b, T alpha, Accumulate accumulate);

}  // namespace weft::kernels::cpu
