// tools/simulate/stages.h - a whole step from a table of measured stages, under every policy.
#pragma once

#include <string>

namespace weft::tools {

struct StagesOptions {
  std::string stages;  ///< A StageTable file.
  int layers = 8;
  int micro_batches = 4;
  std::string policy = "all";
  bool json = false;
  std::string schedule_out;  ///< Where to write the (last) policy's schedule; empty: nowhere.
};

/// `weft simulate --stages`. Returns the exit status.
int simulate_stages(const StagesOptions& options);

}  // namespace weft::tools
