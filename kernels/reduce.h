// kernels/reduce.h - sums, fills and the other one-line passes over an array.
#pragma once

#include <cstdint>

#include "core/stream.h"

namespace weft::kernels {

/// *out = sum of x[i]^2, added up in f64 in a fixed order. NaN and infinity go through. out: host-visible f64.
template <class T>
void sum_squares(Stream& stream, double* out, const T* x, std::int64_t n);

template <class T>
void fill(Stream& stream, T* x, std::int64_t n, T value);
/// y += alpha * x.
template <class T>
void axpy(Stream& stream, T* y, const T* x, std::int64_t n, T alpha);
template <class T>
void copy(Stream& stream, T* y, const T* x, std::int64_t n);

}  // namespace weft::kernels
