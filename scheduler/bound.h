// scheduler/bound.h - a time that no plan can beat: what every answer's gap is measured against.
#pragma once

#include <span>

#include "scheduler/emitter.h"

namespace weft::scheduler {

/// One operation on one machine: it may start at `head`, takes `load`, and the step ends no earlier than `tail` after
/// it.
struct BoundJob {
  double head = 0.0, load = 0.0, tail = 0.0;
};
/// The shortest time in which one machine can do all jobs, when they may be interrupted. Source: Jackson's preemptive
/// schedule; Carlier, "The one-machine sequencing problem", EJOR 11(1), 1982. O(n log n). 0 without jobs.
[[nodiscard]] double one_machine_bound(std::span<const BoundJob> jobs);

/// A time below that of every plan over the emitter's whole space (every Shape, every order, any number of streams),
/// for a machine of compute, intra-node and inter-node links: the larger of
///   - the longest way of one token, with every task on it cut as finely as the space allows;
///   - for each resource, the one-machine bound of its operations: loads with one start-up per operation (nothing cut),
///     heads and tails along such ways.
/// An operation is all pieces of one stage of one layer, direction and micro-batch. dW costs what it adds to the
/// cheaper of fused and deferred.
[[nodiscard]] double lower_bound_us(const Emitter& emitter, const CostModel& cost);

}  // namespace weft::scheduler
