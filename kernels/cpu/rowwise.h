// kernels/cpu/rowwise.h - the passes over one row that softmax and cross-entropy share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/cpu/vector_math.h"

namespace weft::kernels::cpu {

/// The largest of n numbers; NaN among them may be passed over. -infinity for n = 0.
template <class T>
T max_of(const T* x, std::int64_t n) {
  T max = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : max)
  for (std::int64_t j = 0; j < n; ++j) max = x[j] > max ? x[j] : max;
  return max;
}

/// What to subtract before exp: the row's maximum, or 0 where that is -infinity (nothing to see) and the difference
/// would be NaN. +infinity stays: infinite logits end as NaN.
template <class T>
T finite_or_zero(T max) {
  return max == -std::numeric_limits<T>::infinity() ? T(0) : max;
}

/// out[j] = exp(x[j] - shift); returns their sum. NaN goes through. out may be x.
template <class T>
T exp_minus(T* out, const T* x, T shift, std::int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < n; ++j) {
    const T e = exp(x[j] - shift);
    out[j] = e;
    sum += e;
  }
  return sum;
}

/// out = softmax(x), of n numbers; returns their logsumexp. out may be x.
template <class T>
T softmax_row(T* out, const T* x, std::int64_t n) {
  const T shift = finite_or_zero(max_of(x, n)), sum = exp_minus(out, x, shift, n), inverse = T(1) / sum;
#pragma omp simd
  for (std::int64_t j = 0; j < n; ++j) out[j] *= inverse;
  return shift + std::log(sum);
}

}  // namespace weft::kernels::cpu
