// kernels/cuda/flash.cuh - what attention on tensor cores is made of: BF16 tiles in shared memory, and products of a
// warp's 16 rows with them. Heads of up to 128; narrower ones are filled up with zeros to kDim = 64 or 128.
// Source: FlashAttention-2, arXiv:2307.08691, algorithms 1 and 2; the mask and the tiles left out as in
// attention_tiles.cuh.
#pragma once

#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/mma.cuh"

namespace weft::kernels::cuda {

inline constexpr int kFlashDim = 128;      ///< The widest head.
inline constexpr int kFlashWarps = 4;      ///< Of a block.
inline constexpr int kFlashWarpRows = 16;  ///< Rows that a warp owns: one tensor core product high.
inline constexpr int kFlashRows = kFlashWarps * kFlashWarpRows;
static_assert(kFlashRows % kTileRows == 0);

/// Elements from row to row of a tile: 8 more than the head's, so that eight rows start in different banks.
template <int kDim>
inline constexpr int kFlashStride = kDim + 8;

/// Arguments of all three kernels.
struct FlashArguments {
  AttentionInputs<BF16> in;
  AttentionShape shape;
  const TileBounds *q_bounds, *k_bounds;
};
struct FlashGradient {
  AttentionGradients<BF16> grad;
  Matrix<const BF16> dout;
  Matrix<const float> lse, delta;  ///< delta: <dout, out> of each row and head
};

void flash_forward(Stream& stream, Matrix<BF16> out, Matrix<float> lse, const FlashArguments& a);
void flash_backward(Stream& stream, const FlashGradient& g, const FlashArguments& a);

/// True when some query of `num_q` tiles sees some key of `num_k` tiles.
__device__ inline bool any_sees(const TileBounds* q, std::int64_t num_q, const TileBounds* k, std::int64_t num_k) {
  for (std::int64_t i = 0; i < num_q; ++i)
    for (std::int64_t j = 0; j < num_k; ++j)
      if (may_see(q[i], k[j])) return true;
  return false;
}
/// How many tiles of bounds rows [first, first + rows) have, of num_rows.
__device__ inline std::int64_t bounds_of(std::int64_t first, std::int64_t rows, std::int64_t num_rows) {
  const std::int64_t left = num_rows - first < rows ? num_rows - first : rows;
  return (left + kTileRows - 1) / kTileRows;
}

/// Goes through the tiles for which `wanted(tile)` holds, the next one being on its way while one is used. load(tile,
/// buffer) starts copies and writes what else belongs to a tile; use(tile, buffer) reads it; buffer is 0 and 1 in turn.
/// What the caller started to copy has arrived when use is first called. All threads of the block must call.
/// The first load comes behind a barrier: what was read before may be overwritten.
template <class Wanted, class Load, class Use>
__device__ void for_each_tile_ahead(std::int64_t num_tiles, const Wanted& wanted, const Load& load, const Use& use) {
  WantedTiles<Wanted> tiles(num_tiles, wanted);
  std::int64_t tile = tiles.next();
  if (tile < num_tiles) load(tile, 0);
  for (int buffer = 0; tile < num_tiles; buffer ^= 1) {
    wait_for_copies();
    __syncthreads();  // the tile has arrived for all, and all have used the one before
    const std::int64_t next = tiles.next();
    if (next < num_tiles) load(next, buffer ^ 1);
    use(tile, buffer);
    tile = next;
  }
  wait_for_copies();  // the caller's, if there was no tile
}

/// Starts to copy to[r, :] = m[first + r, first_col ... + dim], zeros behind dim and past the last row. By all threads
/// of the block; rows that do not begin at multiples of 16 bytes are there when it returns.
template <int kDim>
__device__ void load_tile(BF16* to, Matrix<const BF16> m, std::int64_t first, int num_rows, std::int64_t first_col,
                          int dim) {
  constexpr int kPack = 8;  // elements of 16 bytes
  struct alignas(16) Pack {
    BF16 element[kPack];
  };
  const bool aligned =
      (reinterpret_cast<std::uintptr_t>(m.data + first_col) % sizeof(Pack) | (m.stride | dim) % kPack) == 0;
  for (int i = static_cast<int>(threadIdx.x); i < num_rows * (kDim / kPack); i += static_cast<int>(blockDim.x)) {
    const int r = i / (kDim / kPack), c = i % (kDim / kPack) * kPack;
    BF16* const place = to + r * kFlashStride<kDim> + c;
    if (aligned) {
      const bool there = c < dim && first + r < m.rows;
      start_copy<sizeof(Pack)>(place, there ? m.row(first + r) + first_col + c : m.data + first_col, there);
      continue;
    }
    Pack pack;
    for (int j = 0; j < kPack; ++j)
      pack.element[j] = first + r < m.rows && c + j < dim ? m.row(first + r)[first_col + c + j] : BF16(0.0F);
    *reinterpret_cast<Pack*>(place) = pack;
  }
}

/// Row and column of element i of a block [16, 8] of sums that this lane holds.
__device__ inline int sum_row(int i) { return lane_id() / 4 + i / 2 * 8; }
__device__ inline int sum_col(int block, int i) { return 8 * block + lane_id() % 4 * 2 + i % 2; }

/// sum[b] += own other^T: own [16, kDim], other [8 kBlocks, kDim].
template <int kDim, int kBlocks>
__device__ void add_dots(float (&sum)[kBlocks][4], const BF16* own, const BF16* other) {
  const int lane = lane_id();
  const BF16* own_row = own + lane % 16 * kFlashStride<kDim> + lane / 16 * 8;
  const BF16* other_row = other + (lane % 8 + lane / 16 * 8) * kFlashStride<kDim> + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kDim; k += 16) {
    std::uint32_t a[4];
    load_matrices(a, own_row + k);
#pragma unroll
    for (int b = 0; b < kBlocks; b += 2) {
      std::uint32_t m[4];
      load_matrices(m, other_row + 8 * b * kFlashStride<kDim> + k);
      multiply_add(sum[b], a, {m[0], m[1]});
      multiply_add(sum[b + 1], a, {m[2], m[3]});
    }
  }
}

/// A block of sums [16, 8 kBlocks] in BF16, as the left side of a product.
template <int kBlocks>
struct LeftSide {
  std::uint32_t pair[kBlocks / 2][4];
  __device__ explicit LeftSide(const float (&s)[kBlocks][4]) {
    const auto join = [](float a, float b) {
      return static_cast<std::uint32_t>(BF16(b).bits()) << 16 | BF16(a).bits();
    };
#pragma unroll
    for (int b = 0; b < kBlocks; b += 2) {
      pair[b / 2][0] = join(s[b][0], s[b][1]);
      pair[b / 2][1] = join(s[b][2], s[b][3]);
      pair[b / 2][2] = join(s[b + 1][0], s[b + 1][1]);
      pair[b / 2][3] = join(s[b + 1][2], s[b + 1][3]);
    }
  }
};

/// sum += left other: left [16, 8 kBlocks], other [8 kBlocks, kDim].
template <int kDim, int kBlocks>
__device__ void add_products(float (&sum)[kDim / 8][4], const LeftSide<kBlocks>& left, const BF16* other) {
  const int lane = lane_id();
  const BF16* row = other + lane % 16 * kFlashStride<kDim> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kBlocks / 2; ++k)
#pragma unroll
    for (int d = 0; d < kDim; d += 16) {
      std::uint32_t m[4];
      load_matrices_transposed(m, row + 16 * k * kFlashStride<kDim> + d);
      multiply_add(sum[d / 8], left.pair[k], {m[0], m[1]});
      multiply_add(sum[d / 8 + 1], left.pair[k], {m[2], m[3]});
    }
}

/// Starts to copy the place of `row` in the mask. By one thread.
__device__ inline void start_place(RowPlace* to, const AttentionRows& rows, std::int64_t row, std::int64_t num_rows) {
  to->valid = row < num_rows;
  if (!to->valid) return;
  start_copy<4>(&to->segment, rows.segment + row);
  start_copy<4>(&to->position, rows.position + row);
}

/// Launches the instance of a kernel for this width of heads.
template <int kDim, class... Params, class... Args>
void launch_flash(Stream& stream, void (*kernel)(Params...), std::int64_t num_rows, std::int64_t num_heads,
                  std::int64_t tile_rows, const Args&... args) {
  constexpr std::int64_t kPlaceBytes = 2048;  // of RowPlace and terms beside the tiles
  const BlockPlan plan{kFlashWarps, tile_rows * kFlashStride<kDim> * 2 + kPlaceBytes};
  allow_shared(kernel, plan);
  launch(stream, kernel,
         {ceil_div(num_rows, kFlashRows), num_heads, kFlashWarps * kWarp, static_cast<std::size_t>(plan.shared_bytes)},
         args...);
}

}  // namespace weft::kernels::cuda
