// kernels/cuda/blas.h - cuBLAS for all element types, on matrix views; and what products need around it.
#pragma once

#include <span>

#include "core/bf16.h"
#include "kernels/gemm.h"

namespace weft::kernels::cuda {

/// c = alpha * op(a) op(b), or c += .... Shapes fit (checked by the caller); any of them may be empty. F32 stays F32:
/// no TF32. BF16 sums in F32 and rounds once, or not at all where c is F32. Each stream has its own handle and
/// workspace, so that streams do not disturb each other and equal calls give equal bits.
template <class T, class Out>
void multiply(Stream& stream, Matrix<Out> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b,
              Wide<T> alpha, Accumulate accumulate);

/// All of them in one launch, as multiply() with alpha = 1.
template <class T, class Out>
void multiply_group(Stream& stream, std::span<const GemmProduct<T, Out>> products, Transpose trans_a, Transpose trans_b,
                    Accumulate accumulate);

/// Every row of m becomes `row`.
template <class T>
void broadcast_row(Stream& stream, Matrix<T> m, const T* row);

}  // namespace weft::kernels::cuda
