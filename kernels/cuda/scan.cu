#include "kernels/cuda/scan.h"

#include <cub/device/device_scan.cuh>

#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {

void exclusive_sum(Stream& stream, std::int32_t* values, std::int64_t count) {
  const auto sum = [&](void* scratch, std::size_t& bytes) {
    WEFT_CUDA_CHECK(cub::DeviceScan::ExclusiveSum(scratch, bytes, values, values, count, native(stream)));
  };
  std::size_t bytes = 0;
  sum(nullptr, bytes);
  const weft::cuda::StreamBytes scratch(native(stream), static_cast<std::int64_t>(bytes));
  sum(scratch.data(), bytes);
}

}  // namespace weft::kernels::cuda
