// parallel/train/probes.h - measures on these ranks what planning needs to know: weft profile.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "parallel/train/run_config.h"
#include "scheduler/cost_model.h"

namespace weft::parallel {

struct ProbeOptions {
  int ranks_per_node = 1;
  Device device = {};                                             ///< Of this rank (run_device); the same kind on all.
  double time_limit_s = 40.0;                                     ///< When to stop repeating steps.
  std::function<void(const std::string&)> on_progress = nullptr;  ///< May be null.
};

struct Profile {
  scheduler::CostModel cost;
  double stretch = 1.0;  ///< Wall time over CPU time of computation while all ranks compute; 1 on a GPU.
  /// Of each communication task for ranks that come to it later; part of the families' costs; 0 on a GPU.
  double wait_us = 0.0;
  std::vector<double> rank_loads;  ///< Rows received by the busiest rank over the mean, a figure per run.
  int num_runs = 0;
};

/// Collective. Binds real steps of the configured model (at depths of up to eight layers, on the first sequences of its
/// training data, on made-up tokens when data.train is empty) at several chunk degrees, batch
/// sizes and gradient slices and times each of their tasks on all ranks at once; times bare collectives per
/// communicator; times pairs of streams; all of it on options.device, by its clock. Communicators are made and memory
/// is taken here, so it runs apart from training. The same result on every rank.
[[nodiscard]] Profile measure_profile(const RunConfig& config, comm::Communicator& world, const ProbeOptions& options);

}  // namespace weft::parallel
