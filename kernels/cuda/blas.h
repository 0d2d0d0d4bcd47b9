// kernels/cuda/blas.h - cuBLAS for both element types, on matrix views; and what products need around it.
#pragma once

#include "kernels/gemm.h"

namespace weft::kernels::cuda {

/// c = alpha * op(a) op(b), or c += .... Shapes fit (checked by the caller); any of them may be empty. F32 stays F32:
/// no TF32. Each stream has its own handle and workspace, so that streams do not disturb each other and equal calls
/// give equal bits.
template <class T>
void multiply(Stream& stream, Matrix<T> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b,
              T alpha, Accumulate accumulate);

/// Every row of m becomes `row`.
template <class T>
void broadcast_row(Stream& stream, Matrix<T> m, const T* row);

}  // namespace weft::kernels::cuda
