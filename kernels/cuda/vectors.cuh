// kernels/cuda/vectors.cuh - rows read and written 16 bytes at a time, several such reads of a thread being under way
// at once: what a kernel needs that does little but move rows. Little's law: bytes under way = bandwidth * latency.
#pragma once

#include <type_traits>

#include "core/bf16.h"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {

constexpr std::size_t kVectorBytes = 16;  ///< The widest load and store of a thread.
constexpr int kUnderWay = 4;              ///< Loads that a thread starts before it uses the first.
template <class T>
constexpr int kVectorWidth = static_cast<int>(kVectorBytes / sizeof(T));

/// N elements that are loaded and stored as one: kVectorWidth of them, or 1.
template <class T, int N>
struct alignas(N * sizeof(T)) Vector {
  T of[N];
};
template <int N, class T>
__device__ Vector<T, N> load_vector(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}
template <int N, class T>
__device__ void store_vector(T* to, const Vector<T, N>& vector) {
  *reinterpret_cast<Vector<T, N>*>(to) = vector;
}

/// True where every row begins at a multiple of 16 bytes.
template <class T>
[[nodiscard]] bool in_vectors(const Matrix<T>& m) {
  const bool strides = m.rows < 2 || static_cast<std::size_t>(m.stride) * sizeof(T) % kVectorBytes == 0;
  return strides && reinterpret_cast<std::uintptr_t>(m.data) % kVectorBytes == 0;
}
/// Calls `with` with an integral_constant: kVectorWidth<T> where the rows of all matrices are in vectors, else 1.
template <class T, class With, class... Matrices>
void by_width(const With& with, const Matrices&... m) {
  if ((in_vectors(m) && ...))
    with(std::integral_constant<int, kVectorWidth<T>>());
  else
    with(std::integral_constant<int, 1>());
}
/// A block for each of `rows` rows, with `loads` loads of N elements for a thread.
template <int N>
[[nodiscard]] Shape per_row_of_vectors(std::int64_t rows, std::int64_t cols, int loads) {
  return per_row(rows, ceil_div(cols, N * loads));
}

/// Calls each(integral_constant, j) for the block's share of a row: N elements from j on, then the last few one by one.
template <int N, class Each>
__device__ void for_vectors(std::int64_t cols, const Each& each) {
  const std::int64_t whole = cols / N * N;
  for (std::int64_t j = static_cast<std::int64_t>(threadIdx.x) * N; j < whole; j += blockDim.x * N)
    each(std::integral_constant<int, N>(), j);
  if constexpr (N > 1)
    for (std::int64_t j = whole + threadIdx.x; j < cols; j += blockDim.x) each(std::integral_constant<int, 1>(), j);
}

/// The block copies a row, kUnderWay loads of a thread at a time. Counted in vectors: by elements, the compiler takes
/// those apart that are stored under a condition.
template <int N, class T>
__device__ void copy_row(T* to, const T* from, std::int64_t cols) {
  auto* const out = reinterpret_cast<Vector<T, N>*>(to);
  const auto* const in = reinterpret_cast<const Vector<T, N>*>(from);
  const std::int64_t whole = cols / N, step = blockDim.x;
  for (std::int64_t first = threadIdx.x; first < whole; first += kUnderWay * step) {
    Vector<T, N> v[kUnderWay];
#pragma unroll
    for (int i = 0; i < kUnderWay; ++i)
      if (first + i * step < whole) v[i] = in[first + i * step];
#pragma unroll
    for (int i = 0; i < kUnderWay; ++i)
      if (first + i * step < whole) out[first + i * step] = v[i];
  }
  for (std::int64_t j = whole * N + threadIdx.x; j < cols; j += blockDim.x) to[j] = from[j];
}

}  // namespace weft::kernels::cuda
