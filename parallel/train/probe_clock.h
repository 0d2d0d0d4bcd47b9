// parallel/train/probe_clock.h - one time for all ranks, and figures that they agree on.
#pragma once

#include <vector>

#include "comm/communicator.h"

namespace weft::parallel {

/// Microseconds on rank 0's clock. Ranks of one node share a clock; another node's offset is the median over barriers
/// of what its clock shows when it leaves one, next to rank 0's.
class ProbeClock {
 public:
  /// Collective.
  ProbeClock(comm::Communicator& world, int ranks_per_node);
  [[nodiscard]] double now_us() const;

 private:
  double offset_us_ = 0.0;
};

/// CPU time of the calling thread, in microseconds.
[[nodiscard]] double thread_cpu_us();

/// Collective: each entry becomes its maximum (kMax), or sum (kSum), over ranks.
void agree(comm::Communicator& world, std::vector<double>& values, comm::ReduceOp op = comm::ReduceOp::kMax);
/// Collective: each entry becomes its minimum over ranks: of a collective's durations, that of the rank that came last.
void agree_on_least(comm::Communicator& world, std::vector<double>& values);

}  // namespace weft::parallel
