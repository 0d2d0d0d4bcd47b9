// tools/report/plan_view.h - a run's plan in words, and the costs it was made with.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "tools/plan/comparison.h"
#include "tools/report/step_view.h"

namespace weft::tools {

/// {"policy", "words": [...], "predicted_ms", "lower_bound_ms", "gap", "over_sequential", "over_fsmoe", "memory_bytes",
///  "tasks", "streams", "exposed_comm_ms"}
[[nodiscard]] nlohmann::ordered_json plan_json(const Comparison& comparison);

/// The plan's simulated step on `machine`, which it was priced for.
[[nodiscard]] StepView simulated_step(const parallel::RunConfig& config, const parallel::RunPlan& plan,
                                      const scheduler::Machine& machine);

/// {"source", "measured", "families": [{"name", "work", "link", "unit", "alpha_us", "beta_us", "r_squared", "points":
///  [[operations, amount, time_us]]}]}; what prices a kind of work that no family knows has
/// "kind": true.
[[nodiscard]] nlohmann::ordered_json costs_json(const scheduler::CostModel& cost);

}  // namespace weft::tools
