// tools/bench/bench_observability.h - weft bench observability
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "parallel/train/run_config.h"

namespace weft::tools {

struct BenchObservabilityOptions {
  std::string config;
  std::vector<std::string> sets;
  std::optional<parallel::DeviceChoice> device;      ///< Nothing: parallel.device.
  std::string run_dir = "runs/bench_observability";  ///< What is written stays here, a folder for each variant.
  int rounds = 41, warmup = 2;
};

/// Collective over the ranks of the launcher: trains the same steps with nothing recorded, with what every run records,
/// and with all that can be switched on, in turn (one step of each, again and again), and compares the time of a step
/// with all that happens around it. Returns the exit status. Throws Error{kUnavailable} for a GPU that is not there.
int bench_observability(const BenchObservabilityOptions& options, bool as_json);

}  // namespace weft::tools
