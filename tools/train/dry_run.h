// tools/train/dry_run.h - what a run would take: no device, no communicator, no memory.
#pragma once

#include "parallel/train/run_config.h"
#include "scheduler/cost_model.h"

namespace weft::tools {

/// Prints model, layout, memory of every class on the fullest rank, and predicted time by stage. `ranks` 0: those of
/// the launcher. Returns the exit status.
int dry_run(const parallel::RunConfig& config, int ranks, const scheduler::CostModel& costs, bool as_json);

}  // namespace weft::tools
