// tests/support/cuda/cub/device/device_scan.cuh - stands in for CUB's scan on the emulated GPU.
#pragma once

#include <cstdint>
#include <cstring>
#include <numeric>

#include "tests/support/cuda/cuda_runtime_api.h"

namespace cub {

struct DeviceScan {
  /// sums[i] = the sum of the values before i; sums may be values. Without `scratch`: only says how much it needs.
  template <class Value, class Count>
  static cudaError_t ExclusiveSum(void* scratch, std::size_t& bytes, const Value* values, Value* sums, Count count,
                                  cudaStream_t stream) {
    const std::size_t needed = static_cast<std::size_t>(count) / 2 + 1;
    if (scratch == nullptr) return bytes = needed, cudaSuccess;
    if (bytes < needed) return cudaErrorInvalidValue;
    stream->push([=] {
      std::memset(scratch, 0xff, needed);
      std::exclusive_scan(values, values + count, sums, Value{0});
    });
    return cudaSuccess;
  }
};

}  // namespace cub
