// kernels/norm.h - RMSNorm and LayerNorm over the columns of a row.
// Sources: RMSNorm, Zhang and Sennrich, arXiv:1910.07467, eq. 4; LayerNorm, Ba et al., arXiv:1607.06450, eq. 4.
#pragma once

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/gemm.h"

namespace weft::kernels {

/// y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps). x, y: [T, M]; rstd: [T] (out; may be nullptr); weight: [M].
template <class T>
void rms_norm_forward(Stream& stream, Matrix<T> y, Wide<T>* rstd, Matrix<const T> x, const T* weight, double eps);

/// dx (+)= dL/dx, dweight (+)= dL/dweight: `accumulate_dx` governs dx, `accumulate_dw` governs dweight [M].
template <class T>
void rms_norm_backward(Stream& stream, Matrix<T> dx, Wide<T>* dweight, Matrix<const T> dy, Matrix<const T> x,
                       const Wide<T>* rstd, const T* weight, Accumulate accumulate_dx, Accumulate accumulate_dw);

/// y = (x - mean) * rstd * weight + bias. mean, rstd: [T] (out; may be nullptr); weight, bias: [M].
template <class T>
void layer_norm_forward(Stream& stream, Matrix<T> y, Wide<T>* mean, Wide<T>* rstd, Matrix<const T> x, const T* weight,
                        const T* bias, double eps);

template <class T>
void layer_norm_backward(Stream& stream, Matrix<T> dx, Wide<T>* dweight, Wide<T>* dbias, Matrix<const T> dy,
                         Matrix<const T> x, const Wide<T>* mean, const Wide<T>* rstd, const T* weight,
                         Accumulate accumulate_dx, Accumulate accumulate_dw);

}  // namespace weft::kernels
