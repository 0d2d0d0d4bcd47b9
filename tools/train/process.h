// tools/train/process.h - the process around a training run: signals, launcher, memory.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/device.h"

namespace weft::tools {

/// SIGUSR1 and SIGUSR2 ask for save-and-stop (mpirun forwards them and kills nobody); a rank whose launcher dies is
/// killed with it. Call once, at start-up.
void install_signal_handlers();
[[nodiscard]] bool stop_requested() noexcept;

/// Largest resident set of this process so far, bytes.
[[nodiscard]] std::int64_t peak_memory_bytes();
/// Memory of this machine, bytes.
[[nodiscard]] std::int64_t total_memory_bytes();
[[nodiscard]] std::string host_name();
/// The processor's name, by Linux; empty where it does not say.
[[nodiscard]] std::string processor_name();
/// The processor's name, or the GPU's: "NVIDIA H100 80GB HBM3". Throws Error{kUnavailable} for a device this build or
/// machine lacks.
[[nodiscard]] std::string device_name(Device device);
[[nodiscard]] std::string_view name_of(DeviceKind kind) noexcept;  ///< "cpu", "gpu"

}  // namespace weft::tools
