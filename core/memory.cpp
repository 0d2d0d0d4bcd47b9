#include "core/memory.h"

#include <cstdlib>
#include <cstring>

#include "core/cuda/backend.h"
#include "core/error.h"
#include "core/stream.h"

namespace weft {
namespace {

constexpr std::int64_t kAlignment = 64;

void* allocate_cpu(std::int64_t bytes) {
  const std::int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* data = std::aligned_alloc(kAlignment, static_cast<std::size_t>(rounded));
  if (data == nullptr)
    throw Error(ErrorCode::kOutOfMemory, str("no ", bytes, " bytes of host memory"),
                "use a smaller micro_batch, recompute, or more ranks; `weft train --dry_run` shows where memory goes");
  return data;
}

}  // namespace

Memory::Memory(Device device, std::int64_t bytes, MemoryPlace place) : bytes_(bytes) {
  WEFT_CHECK(bytes >= 0, "Memory: negative size ", bytes);
  if (bytes == 0) return;
  void* data = device.kind == DeviceKind::kCpu ? allocate_cpu(bytes) : cuda::allocate(device, bytes, place);
  data_ = std::unique_ptr<void, Free>(data, Free{device, place});
}

void Memory::Free::operator()(void* data) const noexcept {
  if (device.kind == DeviceKind::kCpu)
    std::free(data);
  else
    cuda::deallocate(device, data, place);
}

void copy_bytes(Stream& stream, void* to, const void* from, std::int64_t bytes) {
  WEFT_CHECK(bytes >= 0, "copy_bytes: negative size ", bytes);
  WEFT_CHECK(bytes == 0 || (to != nullptr && from != nullptr), "copy_bytes: no memory for ", bytes, " bytes");
  if (bytes == 0) return;
  if (stream.device().kind == DeviceKind::kCpu)
    std::memcpy(to, from, static_cast<std::size_t>(bytes));
  else
    cuda::copy(stream, to, from, bytes);
}

}  // namespace weft
