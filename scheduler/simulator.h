// scheduler/simulator.h - runs a plan on a clock instead of a machine.
#pragma once

#include "scheduler/cost_model.h"
#include "scheduler/plan.h"
#include "scheduler/timeline.h"

namespace weft::scheduler {

/// Prices a plan. Deterministic, linear in tasks and edges: about 0.2 s for a million tasks on one core.
///
/// Order. A task starts once its edges (the graph's and the slots') are met, all tasks issued before it on its stream
/// (one per set of resources) or on any of its resources are done, and the host has issued it. `single_stream`: one
/// thread runs one task after the other, what execute_inline does.
///
/// Host. Issuing a task takes cost.machine.issue_us, in issue order, from time 0. A task with Resource::kHost (a wait
/// for routed counts) holds the host until it is done; so does every task when `single_stream`.
///
/// Contention. While several tasks run, each is slower than alone by the larger of
///   - 1 + the sum over the others of (machine.contention - 1), the largest over the resources of the two;
///   - tasks that run / machine.cores_per_rank, where that is more than 1 (cores under 1 count as 1; 0: no limit).
/// Where ranks share cores (machine.ranks_per_core = m > 1), the others of a core are taken to be as busy as this rank:
/// computation takes 1 + (m - 1) u^2 times its cost, u being the share of the step in which the rank computes. Ranks
/// that always compute always meet (m); ranks that often wait fall out of step, and meet less often than chance has it
/// (u). The square is what was measured (docs/measured.md): a step that waits for links computes at nearly full speed,
/// one that hides its communication does not. Durations stretch while the overlap lasts, and no longer. Free tasks
/// (cost 0) slow nobody.
[[nodiscard]] Timeline simulate(const Graph& graph, const Plan& plan, const SlotMap& slots, const CostModel& cost,
                                bool single_stream);

/// The same with a host that issues all tasks at once and that no wait holds: what is longer than this, the host adds.
[[nodiscard]] Timeline simulate_with_free_host(const Graph& graph, const Plan& plan, const SlotMap& slots,
                                               const CostModel& cost, bool single_stream);
/// Tasks that the host waits for.
[[nodiscard]] std::int64_t num_host_waits(const Graph& graph);

}  // namespace weft::scheduler
