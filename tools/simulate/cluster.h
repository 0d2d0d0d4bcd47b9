// tools/simulate/cluster.h - a config's real step on a cluster that is not there.
#pragma once

#include <string>
#include <vector>

namespace weft::tools {

struct ClusterOptions {
  std::string config;   ///< A training config.
  std::string cluster;  ///< ClusterCosts: configs/clusters/ or a profile.
  std::vector<std::string> sets;
  int nodes = 1, gpus_per_node = 1;
  std::string policy = "all";
  std::string routing;  ///< metrics.jsonl of a run whose expert_tokens are to be priced; empty: none.
  bool json = false;
  std::string schedule_out;
};

/// `weft simulate --nodes`: the emission that would run there, planned and priced. Returns the exit status.
int simulate_cluster(const ClusterOptions& options);

}  // namespace weft::tools
