// tools/bench/bench_device.h - what the measurements of weft bench run on.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>

#include "comm/communicator.h"
#include "parallel/train/run_config.h"

namespace weft::tools {

/// --device AUTO|CPU|CUDA, in either case of letters, into `choice`, whose default stands when it is not given.
void add_device_option(CLI::App& command, parallel::DeviceChoice& choice);
/// The same beside a config: nothing, when it is not given, leaves parallel.device as it is.
void add_device_option(CLI::App& command, std::optional<parallel::DeviceChoice>& choice);

/// The device of this rank. Collective; the same kind on every rank. Throws Error{kUnavailable} on every rank when
/// kCuda cannot be had.
[[nodiscard]] Device bench_device(parallel::DeviceChoice choice, comm::Communicator& world);
/// Of a measurement in one process.
[[nodiscard]] Device bench_device(parallel::DeviceChoice choice);

}  // namespace weft::tools
