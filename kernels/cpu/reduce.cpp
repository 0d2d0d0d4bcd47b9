#include <algorithm>
#include <array>
#include <numeric>

#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void sum_squares(Stream&, double* out, const T* x, std::int64_t n, double scale) {
  constexpr std::int64_t kSums = 32;  // independent sums hide the latency of addition
  std::array<double, kSums> sums{};
  std::int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
#pragma omp simd
    for (std::int64_t j = 0; j < kSums; ++j) {
      const auto value = static_cast<double>(x[i + j]);
      sums[static_cast<std::size_t>(j)] += value * value;
    }
  }
  double total = std::accumulate(sums.begin(), sums.end(), 0.0);
  for (; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  *out = scale * total;
}

template <class T>
void inner_product(Stream&, T* out, const T* x, const T* y, std::int64_t n, T scale, Accumulate accumulate) {
  T sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  *out = (accumulate == Accumulate::kAdd ? *out : T(0)) + scale * sum;
}

template <class T>
void sum_rows(Stream&, T* out, Matrix<const T> x, Accumulate accumulate) {
  if (x.cols == 1) {  // one sum, and then one addition
    T sum = 0;
    for (std::int64_t i = 0; i < x.rows; ++i) sum += *x.row(i);
    *out = (accumulate == Accumulate::kAdd ? *out : T(0)) + sum;
    return;
  }
  if (accumulate == Accumulate::kOverwrite) std::fill_n(out, x.cols, T(0));
  for (std::int64_t i = 0; i < x.rows; ++i) {
    const T* row = x.row(i);
#pragma omp simd
    for (std::int64_t j = 0; j < x.cols; ++j) out[j] += row[j];
  }
}

template <class T>
void axpy(Stream&, T* y, const T* x, std::int64_t n, T alpha) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] += alpha * x[i];
}

template <class T>
void copy_rows(Stream&, Matrix<T> y, Matrix<const T> x, Accumulate accumulate) {
  for (std::int64_t i = 0; i < y.rows; ++i) {
    T* to = y.row(i);
    const T* from = x.row(i);
    if (accumulate == Accumulate::kOverwrite) {
      std::copy_n(from, y.cols, to);
      continue;
    }
#pragma omp simd
    for (std::int64_t j = 0; j < y.cols; ++j) to[j] += from[j];
  }
}

}  // namespace

template <class T>
void add_reduce(Backend<T>& table) {
  table.sum_squares = sum_squares<T>;
  table.inner_product = inner_product<T>;
  table.sum_rows = sum_rows<T>;
  table.axpy = axpy<T>;
  table.copy_rows = copy_rows<T>;
}

template void add_reduce(Backend<float>& table);
template void add_reduce(Backend<double>& table);

}  // namespace weft::kernels::cpu
