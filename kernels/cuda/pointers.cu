#include "kernels/cuda/pointers.h"

#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {
namespace {

constexpr int kBatch = 256;  // 2 KiB of the 4 KiB that a kernel's arguments may have
struct Batch {
  const void* pointer[kBatch];
};

__global__ void write_pointers_kernel(const void** to, Batch batch, int count) {
  if (const int i = static_cast<int>(threadIdx.x); i < count) to[i] = batch.pointer[i];
}

}  // namespace

void write_pointers(Stream& stream, const void** to, std::span<const void* const> pointers) {
  for (std::size_t first = 0; first < pointers.size(); first += kBatch) {
    const std::size_t count = std::min<std::size_t>(pointers.size() - first, kBatch);
    Batch batch{};
    std::copy_n(pointers.begin() + static_cast<std::ptrdiff_t>(first), count, batch.pointer);
    launch(stream, write_pointers_kernel, {1, 1, kBatch}, to + first, batch, static_cast<int>(count));
  }
}

}  // namespace weft::kernels::cuda
