// scheduler/policy.h - policies turn a graph into an order: pure functions, same input, same plan.
#pragma once

#include "scheduler/cost_model.h"
#include "scheduler/plan.h"

namespace weft::scheduler {

/// DeepSpeed-MoE's order: one task after the other as the model is written, gradients reduced after the backward.
/// Source: arXiv:2201.05596, section 5. It is the order of emission.
[[nodiscard]] Plan sequential_plan(const Graph& graph, const Shape& shape);

/// List scheduling on the cost model: whenever a resource is free, the ready task with the longest way to the end of
/// the step goes next, those of older micro-batches first; at most two micro-batches are in flight. Dispatches of later
/// chunks thus overlap with the experts of earlier ones, gradient reductions with the backward. Source: Graham, "Bounds
/// on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2), 1969; priorities as in HEFT's upward rank,
/// Topcuoglu et al., IEEE TPDS 13(3), 2002. O(edges + tasks log tasks).
[[nodiscard]] Plan list_plan(const Graph& graph, const Shape& shape, const CostModel& cost);

}  // namespace weft::scheduler
