// tools/train/dry_run.h - what a run would take: no device, no communicator, no memory.
#pragma once

#include "parallel/train/run_config.h"

namespace weft::tools {

struct DryRunOptions {
  int ranks = 0;           ///< 0: those of the launcher.
  int ranks_per_node = 0;  ///< 0: all on one.
  bool json = false;
};

/// Prints model, layout, memory of every class on the fullest rank, and predicted time by stage, of schedule.plan or of
/// the plan that training would make. Returns the exit status. Throws what training throws for a plan that does not
/// fit: kInvalidArgument.
int dry_run(const parallel::RunConfig& config, const DryRunOptions& options);

}  // namespace weft::tools
