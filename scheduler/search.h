// scheduler/search.h - the `weft` policy: a searched schedule of a whole step on all resources.
// The space: chunks per layer and direction, sub-batches per micro-batch, dW fused or deferred in pieces, gradient
// slices, micro-batches in flight, and any order of the tasks on each resource, so forward of one micro-batch beside
// backward of another too. Orders come from list scheduling under a rule of priorities (critical path, then by
// micro-batch, direction and kind of task), improved by justification and by job-shop tabu search. Plans of other
// policies join as incumbents: the result is never slower than any of them on the cost model.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/emitter.h"

namespace weft::scheduler {

struct SearchOptions {
  /// How much is looked at, in tasks over all list schedules, moves and emissions: a budget that, unlike time, gives
  /// the same plan for the same input. 1e7 is about a quarter of a second. Pricing the incumbents is not counted.
  double task_visits = 4.5e7;
  std::int64_t memory_limit_bytes = 0;  ///< Plans that need more are left out; 0: no limit.
  std::uint64_t seed = 1;
  /// At least this many visits for each task of the coarsest Shape: for a large step the budget grows with it.
  double visits_per_task = 1500.0;
};

/// A plan's simulated time and memory.
struct PlanPrice {
  double total_us = 0.0;
  std::int64_t memory_bytes = 0;
};
[[nodiscard]] PlanPrice price(const Graph& graph, const Plan& plan, const CostModel& cost);

/// Sets plan.slot_rest to the shortest of a few rests with which the plan is as fast as with longer ones (to 0.2 %),
/// within the memory limit (0: none), and prices it.
[[nodiscard]] PlanPrice settle_slots(const Graph& graph, Plan& plan, const CostModel& cost,
                                     std::int64_t memory_limit_bytes);

struct SearchResult {
  Plan plan;  ///< policy: "weft".
  PlanPrice price;
  std::int64_t num_candidates = 0;  ///< Schedules whose time was worked out.
};

/// Throws kInvalidArgument when no plan found fits the memory limit, with the smallest need.
[[nodiscard]] SearchResult search_plan(const Emitter& emitter, const CostModel& cost,
                                       const std::vector<Plan>& incumbents, const SearchOptions& options = {});

}  // namespace weft::scheduler
