// parallel/train/collective_probe.h - one collective of a given size, to be timed.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "scheduler/graph.h"

namespace weft::parallel {

/// An F32 collective of `group` over made-up data, as often as it is wanted.
class CollectiveProbe {
 public:
  /// `kind`: kAllToAll (equal blocks), kAllGather, kReduceScatter, kAllReduce or kSendRecv (a hop around the ring).
  /// `wire_bytes`: what each rank is to send (comm/cost.h), as near as whole elements allow. `group` outlives this.
  CollectiveProbe(comm::Communicator& group, scheduler::WorkKind kind, double wire_bytes);
  [[nodiscard]] double wire_bytes() const;    ///< What a rank really sends.
  [[nodiscard]] double buffer_bytes() const;  ///< The whole buffer of one rank: n of comm::wire_bytes.
  /// Collective, blocking on the CPU.
  void run(Stream& stream);

 private:
  void shift(Stream& stream);

  comm::Communicator& group_;
  scheduler::WorkKind kind_;
  std::int64_t share_ = 1;
  std::vector<float> send_, recv_;
  std::vector<std::int64_t> counts_;
};

}  // namespace weft::parallel
