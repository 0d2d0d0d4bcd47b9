// kernels/cuda/sort.cu - CUB's radix sort, on as many bits as the ids have: it is stable, and equal calls give equal
// bits.
#include "kernels/cuda/sort.h"

#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {

void sort_by_id(Stream& stream, std::uint64_t* sorted, const std::uint64_t* keys, std::int64_t count,
                std::int64_t num_ids) {
  // no id has all of these bits set, as kNoKey has
  const int bits = std::bit_width(static_cast<std::uint64_t>(num_ids));
  const auto sort = [&](void* scratch, std::size_t& bytes) {
    WEFT_CUDA_CHECK(
        cub::DeviceRadixSort::SortKeys(scratch, bytes, keys, sorted, count, kIdShift, kIdShift + bits, native(stream)));
  };
  std::size_t bytes = 0;
  sort(nullptr, bytes);
  const weft::cuda::StreamBytes scratch(native(stream), static_cast<std::int64_t>(bytes));
  sort(scratch.data(), bytes);
}

}  // namespace weft::kernels::cuda
