// tools/train/process.h - the process around a training run: signals, launcher, memory.
#pragma once

#include <cstdint>
#include <string>

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

}  // namespace weft::tools
