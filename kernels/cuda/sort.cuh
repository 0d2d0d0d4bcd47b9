// kernels/cuda/sort.cuh - sorting of keys that are distinct: whoever adds up what has one id sorts (id, place) and goes
// through it in order. Batcher's bitonic network ("Sorting networks and their applications", 1968).
#pragma once

#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {

constexpr std::uint64_t kNoKey = ~std::uint64_t{0};
constexpr std::int64_t kTileKeys = 1024;  // sorted in shared memory by half as many threads

[[nodiscard]] inline std::int64_t power_of_two(std::int64_t at_least) {
  std::int64_t size = 1;
  while (size < at_least) size *= 2;
  return size;
}

/// Compares the p-th pair of elements `distance` apart (a power of two), and puts it in the order of its run of `run`
/// elements: runs ascend and descend in turn. `first`: the number of keys[0] in the whole array.
__device__ inline void order_pair(std::uint64_t* keys, std::int64_t p, std::int64_t distance, std::int64_t run,
                                  std::int64_t first) {
  const std::int64_t i = ((p & ~(distance - 1)) << 1) | (p & (distance - 1)), j = i + distance;
  const std::uint64_t a = keys[i], b = keys[j];
  const bool ascending = ((first + i) & run) == 0;
  if ((a > b) == ascending) {
    keys[i] = b;
    keys[j] = a;
  }
}

static __global__ void order_pairs_kernel(std::uint64_t* keys, std::int64_t num_pairs, std::int64_t distance,
                                          std::int64_t run) {
  if (const std::int64_t p = global_thread(); p < num_pairs) order_pair(keys, p, distance, run, 0);
}

/// The steps with distances inside a tile, for runs of first_run, 2 first_run, ... last_run elements.
static __global__ void order_tiles_kernel(std::uint64_t* keys, std::int64_t size, std::int64_t first_run,
                                          std::int64_t last_run) {
  __shared__ std::uint64_t tile[kTileKeys];
  const std::int64_t first = blockIdx.x * kTileKeys, count = size < kTileKeys ? size : kTileKeys;
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) tile[i] = keys[first + i];
  for (std::int64_t run = first_run; run <= last_run; run *= 2)
    for (std::int64_t distance = (run < count ? run : count) / 2; distance > 0; distance /= 2) {
      __syncthreads();
      if (threadIdx.x < count / 2) order_pair(tile, threadIdx.x, distance, run, first);
    }
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) keys[first + i] = tile[i];
}

/// Sorts `size` keys, a power of two.
inline void sort_keys(Stream& stream, std::uint64_t* keys, std::int64_t size) {
  const Shape tiles{ceil_div(size, kTileKeys), 1, static_cast<int>(kTileKeys / 2)};
  launch(stream, order_tiles_kernel, tiles, keys, size, std::int64_t{2}, std::min(size, kTileKeys));
  for (std::int64_t run = 2 * kTileKeys; run <= size; run *= 2) {
    for (std::int64_t distance = run / 2; distance >= kTileKeys; distance /= 2)
      launch(stream, order_pairs_kernel, per_element(size / 2), keys, size / 2, distance, run);
    launch(stream, order_tiles_kernel, tiles, keys, size, run, run);
  }
}

}  // namespace weft::kernels::cuda
