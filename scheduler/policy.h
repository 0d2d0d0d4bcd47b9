// scheduler/policy.h - policies turn a graph into an order: pure functions, same input, same plan.
#pragma once

#include "scheduler/plan.h"

namespace weft::scheduler {

/// DeepSpeed-MoE's order: one task after the other as the model is written, gradients reduced after the backward.
/// Source: arXiv:2201.05596, section 5. It is the order of emission.
[[nodiscard]] Plan sequential_plan(const Graph& graph, const Shape& shape);

}  // namespace weft::scheduler
