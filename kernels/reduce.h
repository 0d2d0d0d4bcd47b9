// kernels/reduce.h - sums, fills and the other one-line passes over an array.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/gemm.h"

namespace weft::kernels {

/// *out = scale * sum of x[i]^2, added up in f64 in a fixed order. NaN and infinity go through. out: on the stream's
/// device.
template <class T>
void sum_squares(Stream& stream, double* out, const T* x, std::int64_t n, double scale = 1.0);
/// *out (+)= scale * sum of x[i] * y[i]. out: on the stream's device.
template <class T>
void inner_product(Stream& stream, T* out, const T* x, const T* y, std::int64_t n, T scale,
                   Accumulate accumulate = Accumulate::kOverwrite);
/// out[j] (+)= sum over i of x[i, j], i ascending on the CPU. x: [N, M], out: [M].
template <class T>
void sum_rows(Stream& stream, Wide<T>* out, Matrix<const T> x, Accumulate accumulate = Accumulate::kOverwrite);

template <class T>
void fill(Stream& stream, T* x, std::int64_t n, Wide<T> value);
/// y += alpha * x.
template <class T>
void axpy(Stream& stream, T* y, const T* x, std::int64_t n, Wide<T> alpha);
template <class T>
void copy(Stream& stream, T* y, const T* x, std::int64_t n);
/// y = x or y += x with x in storage and y in F32, and the other way round: rounded once. [N, M] of any strides. For
/// F32 and F64 they are copy_rows.
template <class T>
void widen(Stream& stream, Matrix<Wide<T>> y, Matrix<const T> x, Accumulate accumulate = Accumulate::kOverwrite);
template <class T>
void narrow(Stream& stream, Matrix<T> y, Matrix<const Wide<T>> x, Accumulate accumulate = Accumulate::kOverwrite);
/// y = x or y += x, row by row: [N, M], of any strides; x and y do not overlap.
template <class T>
void copy_rows(Stream& stream, Matrix<T> y, Matrix<const T> x, Accumulate accumulate = Accumulate::kOverwrite);

}  // namespace weft::kernels
