// scheduler/order.h - fixed issue orders: how the systems that Weft is compared with run a step.
#pragma once

#include <vector>

#include "scheduler/cost_model.h"
#include "scheduler/graph.h"
#include "scheduler/plan.h"

namespace weft::scheduler {

/// The order in which the tasks were emitted: one stage after the other.
[[nodiscard]] std::vector<TaskId> emission_order(const Graph& graph);

[[nodiscard]] Plan sequential_plan(const Graph& graph, const Shape& shape);  ///< That order as a plan.

/// Emission order, but the chunks of each MoE layer pipelined as Tutel, PipeMoE and FSMoE issue them: all (dispatch,
/// all-gather) pairs, then for each chunk expert, reduce-scatter and combine. On first-in, first-out streams that is
/// D1..Dr, C1..Cr between nodes and AG1..AGr, RS1..RSr inside them. Source: FSMoE (arXiv:2501.10714), section 4,
/// figures 3 and 4.
[[nodiscard]] std::vector<TaskId> pipelined_order(const Graph& graph);

/// `order` with each gradient reduction moved beside the attention of the layer that comes next in the backward, as
/// Tutel-Improved does (FSMoE, section 6.1). What waits for all reductions (norm, optimizer) stays behind.
[[nodiscard]] std::vector<TaskId> gradients_in_attention(const Graph& graph, const std::vector<TaskId>& order);

/// `order` with each gradient reduction started when its gradients are there and nothing else waits for its link:
/// Lina's priority of all-to-all over all-reduce (USENIX ATC'23). Simulates on `cost`.
[[nodiscard]] std::vector<TaskId> gradients_in_background(const Graph& graph, const Shape& shape, const CostModel& cost,
                                                          const std::vector<TaskId>& order);

/// Moves each task of Resource::kHost to just before the first task that needs it: those that stood between the two are
/// then not held up. A wait for what is there already costs its own duration wherever it stands.
void issue_host_waits_late(const Graph& graph, std::vector<TaskId>& order);

/// FSMoE's adaptive gradient partition.
struct GradientPartition {
  std::vector<std::vector<double>> shares;  ///< [layers] of the pieces, for LayerShape::gradient_shares.
  std::vector<std::vector<TaskId>> before;  ///< [layers] the task each piece is issued before; kNoId: after all.
};
/// Pieces fill the idle time of their link in the backward, once their gradients are there; the rest is the last piece.
/// `graph`: with each reduction whole; `order`: with reductions behind the backward. Source: arXiv:2501.10714, section
/// 5, step 1.
[[nodiscard]] GradientPartition partition_gradients(const Graph& graph, const Shape& shape, const CostModel& cost,
                                                    const std::vector<TaskId>& order);
/// `order` with the pieces of `partition`, of which `graph` is the emission, in their places. Reductions are emitted
/// behind the passes, so the tasks that `partition` names are the same in both graphs.
[[nodiscard]] std::vector<TaskId> insert_gradients(const Graph& graph, const std::vector<TaskId>& order,
                                                   const GradientPartition& partition);

}  // namespace weft::scheduler
