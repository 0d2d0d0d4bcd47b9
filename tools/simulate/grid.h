// tools/simulate/grid.h - FSMoE's grid of 1458 MoE layers under every policy.
#pragma once

#include <optional>
#include <string>

namespace weft::tools {

struct GridOptions {
  std::string cluster;         ///< A Testbed file.
  std::string policy = "all";  ///< A policy's name, or all.
  bool gradients = false;      ///< The layer behind's gradient all-reduce runs in the backward.
  bool unequal = false;        ///< Chunks of unequal sizes on top of weft's plan, reported apart.
  bool json = false;
  std::optional<int> only_case;  ///< Number of one case, from 0.
  std::string schedule_out;      ///< Where to write the schedule of only_case; empty: nowhere.
};

/// `weft simulate --grid fsmoe`. Returns the exit status.
int simulate_grid(const GridOptions& options);

}  // namespace weft::tools
