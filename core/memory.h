// core/memory.h - an owned block of memory of a device, and copies between devices and the host.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device.h"

namespace weft {

class Stream;

/// kPinned: page-locked host memory, which copies to and from `device` need to run beside the host, and which its
/// kernels can reach. Slow to allocate: keep it. On the CPU it is memory like any other.
enum class MemoryPlace : std::uint8_t { kDevice, kPinned };

/// Uninitialised bytes on one device, aligned to 64 (CPU) or 256 (CUDA). Move-only. Work of a stream that still uses
/// the bytes must be done, or the stream asked to keep_alive() their owner, before they are freed.
class Memory {
 public:
  Memory() = default;
  /// Throws Error{kOutOfMemory} naming the size, Error{kUnavailable} for a device this build or machine lacks.
  Memory(Device device, std::int64_t bytes, MemoryPlace place = MemoryPlace::kDevice);
  Memory(Memory&&) noexcept = default;
  Memory& operator=(Memory&&) noexcept = default;

  [[nodiscard]] void* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }
  template <class T>
  [[nodiscard]] T* as() const noexcept {
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    Device device;
    MemoryPlace place;
    void operator()(void* data) const noexcept;
  };
  std::unique_ptr<void, Free> data_;
  std::int64_t bytes_ = 0;
};

/// Copies in stream order; call it from inside a task of `stream`. CPU: done on return. CUDA: either side may be memory
/// of the stream's device or of the host; the call returns at once where the host's side is pinned, and may block where
/// it is not. `to` and `from` do not overlap.
void copy_bytes(Stream& stream, void* to, const void* from, std::int64_t bytes);

}  // namespace weft
