// kernels/cuda/launch.cuh - how kernels are launched, and the sums that threads of a block share. A kernel gets the
// shape of its grid from the shapes of its arguments alone, and every sum has a fixed tree: equal calls, equal bits.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/cuda/memory.h"
#include "core/cuda/stream.h"
#include "core/error.h"
#include "core/matrix.h"

namespace weft::kernels::cuda {

inline constexpr int kWarp = 32;
inline constexpr int kThreads = 256;
inline constexpr unsigned kAllLanes = 0xffffffffU;

[[nodiscard]] constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

[[nodiscard]] inline cudaStream_t native(Stream& stream) { return static_cast<cudaStream_t>(stream.native()); }

struct Shape {
  std::int64_t blocks = 0, blocks_y = 1;
  int threads = kThreads;        ///< A multiple of 32.
  std::size_t shared_bytes = 0;  ///< Of dynamic_shared().
};

/// One block for each of `rows` rows, with threads for `cols` columns.
[[nodiscard]] inline Shape per_row(std::int64_t rows, std::int64_t cols) {
  return {rows, 1, static_cast<int>(std::clamp<std::int64_t>(ceil_div(cols, kWarp) * kWarp, kWarp, kThreads))};
}
/// A thread for each of n elements.
[[nodiscard]] inline Shape per_element(std::int64_t n) { return {ceil_div(n, kThreads)}; }

/// Launches `kernel` onto the stream; nothing for no blocks.
template <class... Params, class... Args>
void launch(Stream& stream, void (*kernel)(Params...), const Shape& shape, const Args&... args) {
  if (shape.blocks == 0 || shape.blocks_y == 0) return;
  WEFT_CHECK(shape.blocks <= std::numeric_limits<std::int32_t>::max() && shape.blocks_y <= 65535, "a grid of ",
             shape.blocks, " x ", shape.blocks_y, " blocks is too large for a GPU");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks), static_cast<unsigned>(shape.blocks_y));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = native(stream);
  WEFT_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, args...));
}

/// The number of this thread among those of the grid, for kernels shaped per_element.
__device__ inline std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp_id() { return static_cast<int>(threadIdx.x) / kWarp; }

/// The block's shared memory of Shape::shared_bytes.
template <class T>
__device__ T* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char dynamic_bytes[];
  return reinterpret_cast<T*>(dynamic_bytes);
}

/// In every lane: the sum over the lanes. All 32 must call.
template <class T>
__device__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}
/// In every lane: the largest of the lanes, NaN passed over.
template <class T>
__device__ T warp_max(T value) {
  constexpr T kNone = -std::numeric_limits<T>::infinity();
  T max = value > kNone ? value : kNone;
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kAllLanes, max, step);
    max = other > max ? other : max;
  }
  return max;
}

/// In every thread: the sum over the block. All threads must call.
template <class T>
__device__ T block_sum(T value) {
  __shared__ T of_warp[kWarp];
  value = warp_sum(value);
  __syncthreads();  // whoever read of_warp in an earlier call is done
  if (lane_id() == 0) of_warp[warp_id()] = value;
  __syncthreads();
  T sum = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) sum += of_warp[w];
  return sum;
}
/// In every thread: the largest of the block, NaN passed over. All threads must call.
template <class T>
__device__ T block_max(T value) {
  __shared__ T of_warp[kWarp];
  value = warp_max(value);
  __syncthreads();
  if (lane_id() == 0) of_warp[warp_id()] = value;
  __syncthreads();
  T max = of_warp[0];
  for (int w = 1; w < static_cast<int>(blockDim.x) / kWarp; ++w) max = of_warp[w] > max ? of_warp[w] : max;
  return max;
}

/// How many threads of the block before this one say yes; `total`: how many of all. All threads must call.
__device__ inline int block_rank(bool yes, int& total) {
  __shared__ int of_warp[kWarp];
  const unsigned lanes = __ballot_sync(kAllLanes, yes);
  __syncthreads();
  if (lane_id() == 0) of_warp[warp_id()] = __popc(lanes);
  __syncthreads();
  int rank = __popc(lanes & ((1U << lane_id()) - 1));
  total = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    if (w < warp_id()) rank += of_warp[w];
    total += of_warp[w];
  }
  return rank;
}

/// What to subtract before exp: the maximum, or 0 where that is -infinity (see kernels/cpu/rowwise.h).
template <class T>
__device__ T finite_or_zero(T max) {
  return max == -std::numeric_limits<T>::infinity() ? T(0) : max;
}

}  // namespace weft::kernels::cuda
