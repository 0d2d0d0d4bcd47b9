// core/memory.h - an owned block of device memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/device.h"

namespace weft {

/// Uninitialised bytes on one device, aligned to 64 (CPU) or 256 (CUDA). Move-only.
class Memory {
 public:
  Memory() = default;
  /// Throws Error{kOutOfMemory} naming the size, Error{kUnavailable} for a device this build or machine lacks.
  Memory(Device device, std::int64_t bytes);
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
    void operator()(void* data) const noexcept;
  };
  std::unique_ptr<void, Free> data_;
  std::int64_t bytes_ = 0;
};

}  // namespace weft
