#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/backend.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void attention_merge(Stream&, Matrix<T> out, Matrix<T> lse, Matrix<const T> part_out, Matrix<const T> part_lse) {
  constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();
  const std::int64_t d = out.cols / lse.cols;
  for (std::int64_t t = 0; t < out.rows; ++t)
    for (std::int64_t h = 0; h < lse.cols; ++h) {
      T& whole = lse.row(t)[h];
      const T part = part_lse.row(t)[h];
      if (part == kMinusInfinity) continue;  // saw no key; the other may not have either
      T* to = out.row(t) + h * d;
      const T* from = part_out.row(t) + h * d;
      if (whole == kMinusInfinity) {
        whole = part;
        std::copy_n(from, d, to);
        continue;
      }
      const T joined = std::max(whole, part) + std::log1p(std::exp(-std::abs(whole - part)));
      const T keep = std::exp(whole - joined), add = std::exp(part - joined);
#pragma omp simd
      for (std::int64_t j = 0; j < d; ++j) to[j] = keep * to[j] + add * from[j];
      whole = joined;
    }
}

}  // namespace

template <class T>
void add_attention_merge(Backend<T>& table) {
  table.attention_merge = attention_merge<T>;
}

template void add_attention_merge(Backend<float>& table);
template void add_attention_merge(Backend<double>& table);

}  // namespace weft::kernels::cpu
