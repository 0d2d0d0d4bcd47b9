// tests/support/cuda/cub/device/device_radix_sort.cuh - stands in for CUB's radix sort on the emulated GPU.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tests/support/cuda/cuda_runtime_api.h"

namespace cub {

struct DeviceRadixSort {
  /// Sorts by bits [begin_bit, end_bit), equal ones in their order. Without `scratch`: only says how much it needs.
  template <class Key, class Count>
  static cudaError_t SortKeys(void* scratch, std::size_t& bytes, const Key* keys, Key* sorted, Count count,
                              int begin_bit, int end_bit, cudaStream_t stream) {
    const std::size_t needed = static_cast<std::size_t>(count) * sizeof(Key) + 1;
    if (scratch == nullptr) return bytes = needed, cudaSuccess;
    if (bytes < needed || keys == sorted || begin_bit > end_bit || end_bit > 8 * static_cast<int>(sizeof(Key)))
      return cudaErrorInvalidValue;
    stream->push([=] {
      std::memset(scratch, 0xff, needed);
      const Key mask = end_bit - begin_bit == 8 * sizeof(Key) ? ~Key{0} : (Key{1} << (end_bit - begin_bit)) - 1;
      std::vector<Key> all(keys, keys + count);
      std::stable_sort(all.begin(), all.end(),
                       [&](Key a, Key b) { return (a >> begin_bit & mask) < (b >> begin_bit & mask); });
      std::copy(all.begin(), all.end(), sorted);
    });
    return cudaSuccess;
  }
};

}  // namespace cub
