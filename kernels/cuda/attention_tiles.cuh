// kernels/cuda/attention_tiles.cuh - what the forward and the backward of attention share. A block owns some rows of
// one head (queries, or keys for their gradients), kRowsPerWarp to a warp, and meets the other side in tiles of 32
// rows, one to a lane. The mask is read pair by pair, so rows may lie in any order: that segments are runs and
// positions ascend, which the CPU backend checks, only makes more tiles be left out here.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {

inline constexpr int kTileRows = kWarp;
inline constexpr int kRowsPerWarp = 8;
inline constexpr int kMaxWarps = 4;  // a block then owns as many rows as a tile has

/// Smallest and largest ids and positions of a tile of rows.
struct TileBounds {
  std::int32_t min_segment, max_segment, min_position, max_position;
};

/// False when no query of a tile sees any key of another.
__device__ inline bool may_see(const TileBounds& queries, const TileBounds& keys) {
  return keys.min_segment <= queries.max_segment && keys.max_segment >= queries.min_segment &&
         keys.min_position <= queries.max_position;
}

/// A row's place in the mask; `valid` is false past the last row.
struct RowPlace {
  std::int32_t segment = 0, position = 0;
  bool valid = false;
};
__device__ inline RowPlace place_of(const AttentionRows& rows, std::int64_t row, std::int64_t num_rows) {
  if (row >= num_rows) return {};
  return {rows.segment[row], rows.position[row], true};
}
__device__ inline bool sees(const RowPlace& query, const RowPlace& key) {
  return query.valid && key.valid && query.segment == key.segment && key.position <= query.position;
}

/// A thread per tile.
__global__ void bound_tiles_kernel(TileBounds* bounds, AttentionRows rows, std::int64_t num_rows);

/// The bounds of every tile of `num_rows` rows, for as long as this object lives (in stream order).
class Bounds {
 public:
  Bounds(Stream& stream, AttentionRows rows, std::int64_t num_rows);
  [[nodiscard]] const TileBounds* data() const { return scratch_.data(); }

 private:
  weft::cuda::StreamScratch<TileBounds> scratch_;
};

/// The tiles in order for which `wanted(tile)` holds. One at a time in a block.
template <class Wanted>
class WantedTiles {
 public:
  __device__ WantedTiles(std::int64_t num_tiles, const Wanted& wanted) : num_tiles_(num_tiles), wanted_(wanted) {}
  /// The next one; num_tiles when there is none. All threads of the block must call; the first call synchronises them.
  __device__ std::int64_t next() {
    __shared__ bool is_wanted[kMaxWarps * kWarp];
    for (; tile_ < num_tiles_; ++tile_) {
      const std::int64_t place = tile_ % blockDim.x;
      if (place == 0) {
        const std::int64_t mine = tile_ + threadIdx.x;
        __syncthreads();
        is_wanted[threadIdx.x] = mine < num_tiles_ && wanted_(mine);
        __syncthreads();
      }
      if (is_wanted[place]) return tile_++;
    }
    return num_tiles_;
  }

 private:
  std::int64_t num_tiles_, tile_ = 0;
  const Wanted& wanted_;
};

/// Calls visit(tile) for the tiles that are wanted. All threads of the block must call; `visit` may synchronise them.
template <class Wanted, class Visit>
__device__ void for_each_tile(std::int64_t num_tiles, const Wanted& wanted, const Visit& visit) {
  WantedTiles<Wanted> tiles(num_tiles, wanted);
  for (std::int64_t tile = tiles.next(); tile < num_tiles; tile = tiles.next()) visit(tile);
}

/// to[r, c] = factor * m[first + r, first_col + c], [num_rows, dim] with `stride`; zero past the last row of m. By all
/// threads of the block.
template <class T>
__device__ void load_rows(Wide<T>* to, int stride, Matrix<const T> m, std::int64_t first, int num_rows,
                          std::int64_t first_col, int dim, Wide<T> factor) {
  for (int i = threadIdx.x; i < num_rows * dim; i += blockDim.x) {
    const int r = i / dim, c = i % dim;
    to[r * stride + c] = first + r < m.rows ? factor * m.row(first + r)[first_col + c] : Wide<T>(0);
  }
}

/// product[r] = <own[r, :], other[lane, :]> for the warp's rows. own: [kRowsPerWarp, dim]; other: [32, dim] with
/// `stride` (odd: the lanes then read different banks).
template <class T>
__device__ void dot_rows(T* product, const T* own, const T* other, int stride, int dim) {
  for (int r = 0; r < kRowsPerWarp; ++r) product[r] = T(0);
  for (int c = 0; c < dim; ++c) {
    const T value = other[lane_id() * stride + c];
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) product[r] += own[r * dim + c] * value;
  }
}

/// sum[r, :] = keep[r] * sum[r, :] + weight[r, :] other for the warp's rows. sum: [kRowsPerWarp, dim]; weight:
/// [kRowsPerWarp, 32]; other: [32, dim] with `stride`.
template <class T>
__device__ void add_weighted_rows(T* sum, const T* keep, const T* weight, const T* other, int stride, int dim) {
  for (int c = lane_id(); c < dim; c += kWarp) {
    T add[kRowsPerWarp] = {};
    for (int j = 0; j < kTileRows; ++j) {
      const T value = other[j * stride + c];
#pragma unroll
      for (int r = 0; r < kRowsPerWarp; ++r) add[r] += weight[r * kTileRows + j] * value;
    }
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) sum[r * dim + c] = keep[r] * sum[r * dim + c] + add[r];
  }
}

/// Warps of a block, and its shared memory. bytes_of(rows) is what a block that owns `rows` rows needs.
struct BlockPlan {
  int warps = 0;
  std::int64_t shared_bytes = 0;
  [[nodiscard]] std::int64_t rows() const { return std::int64_t{warps} * kRowsPerWarp; }
  [[nodiscard]] Shape shape(std::int64_t num_rows, std::int64_t num_heads) const {
    return {ceil_div(num_rows, rows()), num_heads, warps * kWarp, static_cast<std::size_t>(shared_bytes)};
  }
};

/// The most warps that a block can have. `own`: arrays [rows, dim] per owned row, `other`: arrays [32, dim + 1],
/// `scores`: arrays [rows, 32]. Throws kInvalidArgument when the head is too wide for this GPU.
[[nodiscard]] BlockPlan plan_block(Device device, std::int64_t dim, std::int64_t element_bytes, int own, int other,
                                   int scores);

/// Lets `kernel` have as much dynamic shared memory as the plan asks for.
template <class... Params>
void allow_shared(void (*kernel)(Params...), const BlockPlan& plan) {
  WEFT_CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                       cudaFuncAttributeMaxDynamicSharedMemorySize,
                                       static_cast<int>(plan.shared_bytes)));
}

}  // namespace weft::kernels::cuda
