// scheduler/cost_model.h - what a task costs: alpha + beta * amount, per kind of work and link.
// Source: FSMoE (arXiv:2501.10714), section 4.1: t(n) = alpha + n * beta for each collective and for GEMM.
#pragma once

#include <array>
#include <string>

#include "scheduler/executor.h"
#include "scheduler/graph.h"
#include "scheduler/plan.h"

namespace weft::scheduler {

struct LinearCost {
  double alpha_us = 0.0;  ///< Per operation.
  double beta_us = 0.0;   ///< Per FLOP or byte.
  friend bool operator==(const LinearCost&, const LinearCost&) = default;
};

struct CostModel {
  std::string source;  ///< Where the constants are from: a profile, or the name of a nominal cluster file.
  std::array<LinearCost, kNumWorkKinds> intra;  ///< By WorkKind; compute kinds are read from here.
  std::array<LinearCost, kNumWorkKinds> inter;  ///< Collectives that cross nodes.

  [[nodiscard]] double cost_us(const TaskSpec& task) const;
};

/// Runs the plan on a clock: a task starts when its edges (the graph's and the slots') are met, its resources are free
/// and the tasks before it on the same stream are done (one stream per set of resources, or a single one for all when
/// `single_stream`: what execute_inline does). Deterministic, linear in tasks and edges.
[[nodiscard]] Timeline simulate(const Graph& graph, const Plan& plan, const SlotMap& slots, const CostModel& cost,
                                bool single_stream);

}  // namespace weft::scheduler
