// tools/bench/bench_collectives.h - weft bench alltoall, allgather, reducescatter, allreduce
#pragma once

#include <cstdint>

#include "parallel/train/run_config.h"
#include "scheduler/graph.h"

namespace weft::tools {

struct BenchCollectiveOptions {
  scheduler::WorkKind kind = scheduler::WorkKind::kAllToAll;
  parallel::DeviceChoice device = parallel::DeviceChoice::kAuto;  ///< Where the buffers lie.
  double min_bytes = 1024, max_bytes = 4 << 20;                   ///< Of the whole buffer of a rank; sizes grow by 4.
  int repeats = 9;                                                ///< Per size; the median is reported.
  bool compute = false;  ///< Every rank multiplies matrices meanwhile: on a second thread, on a GPU a second stream.
};

/// Collective over the ranks of the launcher: times one collective over each class of links (ranks of a node, ranks of
/// equal place on all nodes, all ranks) and reports bus bandwidth as nccl-tests define it, and CPU time. Returns the
/// exit status. Throws Error{kUnavailable} for a GPU that is not there.
int bench_collective(const BenchCollectiveOptions& options, bool as_json);

}  // namespace weft::tools
