// kernels/cpu/block_gemm.h - matrix products of blocks that lie in the cache: no packing, no dispatch, no allocation.
// Source: register tiling as in Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", TOMS 34(3),
// section 6: a tile of c stays in registers while one column of a and one row of b go by.
#pragma once

#include <cstdint>
#include <cstring>

namespace weft::kernels::cpu {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr std::int64_t kTileRows = 8;  // 8 x 2 sums, 2 of b, 1 of a: 19 of 32 registers
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
inline constexpr std::int64_t kTileRows = 4;  // 4 x 2 sums, 2 of b, 1 of a: 11 of 16 registers
#else
inline constexpr int kVectorBytes = 16;
inline constexpr std::int64_t kTileRows = 4;
#endif

template <class T>
struct Simd {
  typedef T Vector __attribute__((vector_size(kVectorBytes)));
  static constexpr std::int64_t kLanes = kVectorBytes / static_cast<int>(sizeof(T));
  static Vector load(const T* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  static void store(T* to, Vector v) { std::memcpy(to, &v, sizeof v); }
};

/// Columns of c and b come in multiples of this, rows of c and a in multiples of kTileRows.
template <class T>
inline constexpr std::int64_t kTileCols = 2 * Simd<T>::kLanes;

[[nodiscard]] constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// How `a` lies in memory: element (row, inner) at row * stride + inner (kRows), or at inner * stride + row (kColumns).
enum class Layout : bool { kRows, kColumns };

template <class T>
struct Block {
  T* data;
  std::int64_t stride;
};

template <class T, Layout kA, bool kAdd>
void multiply_tile(T* c, std::int64_t c_stride, const T* a, std::int64_t a_stride, const T* b, std::int64_t b_stride,
                   std::int64_t inner) {
  using S = Simd<T>;
  typename S::Vector sum[kTileRows][2] = {};
  for (std::int64_t p = 0; p < inner; ++p) {
    const typename S::Vector b0 = S::load(b + p * b_stride), b1 = S::load(b + p * b_stride + S::kLanes);
#pragma GCC unroll 8
    for (std::int64_t r = 0; r < kTileRows; ++r) {
      const T factor = kA == Layout::kRows ? a[r * a_stride + p] : a[p * a_stride + r];
      sum[r][0] += factor * b0;
      sum[r][1] += factor * b1;
    }
  }
#pragma GCC unroll 8
  for (std::int64_t r = 0; r < kTileRows; ++r) {
    T* to = c + r * c_stride;
    S::store(to, kAdd ? S::load(to) + sum[r][0] : sum[r][0]);
    S::store(to + S::kLanes, kAdd ? S::load(to + S::kLanes) + sum[r][1] : sum[r][1]);
  }
}

/// c = a b, or c += a b. c: [rows, cols] row-major; a: [rows, inner] in layout kA; b: [inner, cols] row-major.
/// rows: multiple of kTileRows; cols: multiple of kTileCols<T>; the padding is read and written.
template <class T, Layout kA, bool kAdd>
void multiply_blocks(Block<T> c, Block<const T> a, Block<const T> b, std::int64_t rows, std::int64_t cols,
                     std::int64_t inner) {
  for (std::int64_t j = 0; j < cols; j += kTileCols<T>)
    for (std::int64_t i = 0; i < rows; i += kTileRows)
      multiply_tile<T, kA, kAdd>(c.data + i * c.stride + j, c.stride,
                                 kA == Layout::kRows ? a.data + i * a.stride : a.data + i, a.stride, b.data + j,
                                 b.stride, inner);
}

}  // namespace weft::kernels::cpu
