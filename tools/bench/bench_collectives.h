// tools/bench/bench_collectives.h - weft bench alltoall, allgather, reducescatter, allreduce
#pragma once

#include <cstdint>

#include "scheduler/graph.h"

namespace weft::tools {

struct BenchCollectiveOptions {
  scheduler::WorkKind kind = scheduler::WorkKind::kAllToAll;
  double min_bytes = 1024, max_bytes = 4 << 20;  ///< Of the whole buffer of a rank; sizes grow by 4.
  int repeats = 9;                               ///< Per size; the median is reported.
  bool compute = false;                          ///< A second thread of every rank multiplies matrices meanwhile.
};

/// Collective over the ranks of the launcher: times one collective over each class of links (ranks of a node, ranks of
/// equal place on all nodes, all ranks) and reports bus bandwidth as nccl-tests define it, and CPU time. Returns the
/// exit status.
int bench_collective(const BenchCollectiveOptions& options, bool as_json);

}  // namespace weft::tools
