// tools/bench/bench_policies.h - weft bench policies
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "parallel/train/run_config.h"

namespace weft::tools {

struct BenchPoliciesOptions {
  std::string config;
  std::vector<std::string> sets;
  std::optional<parallel::DeviceChoice> device;  ///< Nothing: parallel.device.
  std::string profile;         ///< Costs to plan with; empty: schedule.profile, or measured on these ranks first.
  std::string profile_out;     ///< Where measured costs are kept; empty: nowhere.
  std::string policy = "all";  ///< Names with commas between, or all.
  std::string trace_dir;       ///< Empty: no traces. Else NAME.trace.json of each policy's last step.
  int rounds = 21, warmup = 2;
};

/// Collective over the ranks of the launcher: trains the same steps under several policies in turn (one step of each,
/// again and again, so that the drift of the machine hits all alike), each from the same weights on the same data, and
/// compares times, predictions, overlap and losses. All runs lie on the device at once. Returns the exit status.
/// Throws Error{kUnavailable} for a GPU that is not there.
int bench_policies(const BenchPoliciesOptions& options, bool as_json);

}  // namespace weft::tools
