// kernels/cpu/blas.h - CBLAS for both element types, on matrix views.
#pragma once

#include "kernels/gemm.h"

namespace weft::kernels::cpu {

/// c = alpha * op(a) op(b), or c += .... Shapes fit (checked by the caller); any of them may be empty.
template <class T>
void multiply(Matrix<T> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b, T alpha,
              Accumulate accumulate);

/// out[j] = sum over rows of m[., j], or +=, rows in ascending order.
template <class T>
void sum_rows(T* out, Matrix<const T> m, Accumulate accumulate);

/// Every row of m becomes `row`.
template <class T>
void broadcast_row(Matrix<T> m, const T* row);

}  // namespace weft::kernels::cpu
