// parallel/train/collective_probe.h - one collective of a given size, to be timed.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"
#include "scheduler/graph.h"

namespace weft::parallel {

/// An F32 collective of `group` over made-up data, as often as it is wanted.
class CollectiveProbe {
 public:
  /// `kind`: kAllToAll (equal blocks), kAllGather, kReduceScatter, kAllReduce or kSendRecv (a hop around the ring).
  /// `wire_bytes`: what each rank is to send (comm/cost.h), as near as whole elements allow. `group`, whose buffers lie
  /// on `device`, outlives this.
  CollectiveProbe(comm::Communicator& group, scheduler::WorkKind kind, double wire_bytes, Device device = {});
  [[nodiscard]] double wire_bytes() const;    ///< What a rank really sends.
  [[nodiscard]] double buffer_bytes() const;  ///< The whole buffer of one rank: n of comm::wire_bytes.
  /// Collective, from inside a task of `stream`. Blocking on the CPU; on a GPU as Communicator has it.
  void run(Stream& stream);

 private:
  [[nodiscard]] std::int64_t count() const { return send_.bytes() / std::int64_t{sizeof(float)}; }
  void shift(Stream& stream);

  comm::Communicator& group_;
  scheduler::WorkKind kind_;
  std::int64_t share_ = 1;
  Memory send_, recv_;  // [P, share_] F32
  std::vector<std::int64_t> counts_;
};

}  // namespace weft::parallel
