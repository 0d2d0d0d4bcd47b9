// core/device.h - where memory lives and work runs.
#pragma once

#include <cstdint>
#include <string>

namespace weft {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

/// One device of this process. `index` is the CUDA ordinal; 0 for the CPU.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  friend bool operator==(const Device&, const Device&) = default;
};

/// True when this build has the backend and this machine the device. Never throws.
[[nodiscard]] bool is_available(DeviceKind kind) noexcept;
/// Why is_available(kind) is false, for messages; "" where it is true.
[[nodiscard]] std::string why_unavailable(DeviceKind kind);

}  // namespace weft
