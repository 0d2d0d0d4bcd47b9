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
/// How many devices of the kind this process sees: 1 for the CPU, 0 where is_available() is false.
[[nodiscard]] int num_devices(DeviceKind kind) noexcept;
/// "GPU-<uuid>", the same in every process, container and machine that sees this GPU; "" for the CPU. Throws
/// Error{kUnavailable} for a device this build or machine lacks.
[[nodiscard]] std::string device_id(Device device);

}  // namespace weft
