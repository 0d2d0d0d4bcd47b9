// tools/plan/comparison.h - the plans of several policies for one step, side by side.
#pragma once

#include <array>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "parallel/train/trainer.h"
#include "scheduler/policy.h"

namespace weft::tools {

/// One policy's plan, priced.
struct ComparedPlan {
  scheduler::PolicyKind policy = scheduler::PolicyKind::kWeft;
  parallel::RunPlan run;
  double exposed_comm_ms = 0.0;  ///< Communication runs and computation does not.
  std::array<double, scheduler::kNumStages> exposed_stage_ms{};
  std::array<double, 3> busy{};  ///< Share of the step that compute, intra and inter are in use.
};

struct Comparison {
  std::vector<ComparedPlan> plans;  ///< In the order asked for; those that do not fit the memory limit are left out.
  std::vector<std::string> left_out;
  double bound_ms = 0.0;    ///< scheduler::lower_bound_us.
  double planning_s = 0.0;  ///< Wall time.
  [[nodiscard]] const ComparedPlan& fastest() const;
};

/// A plan that is there already, first, beside the sequential and FSMoE's plan of the same step, on `cost`. Throws
/// kInvalidArgument when the plan is for another step.
[[nodiscard]] Comparison compare_plan(const parallel::RunConfig& config, int world_size, int ranks_per_node,
                                      const scheduler::CostModel& cost, scheduler::Plan plan);

/// Plans `config` for rank 0 of `world_size` ranks with each policy. Throws kInvalidArgument when none fits the memory.
[[nodiscard]] Comparison compare_plans(const parallel::RunConfig& config, int world_size, int ranks_per_node,
                                       const scheduler::CostModel& cost,
                                       const std::vector<scheduler::PolicyKind>& policies);

/// A row per policy: predicted ms, speedup over sequential and fsmoe (where they are there), gap to the bound, peak
/// memory, exposed communication, waits of the host and what the host adds; and the reasons of the fastest.
[[nodiscard]] nlohmann::ordered_json to_json(const Comparison& comparison);
void print_table(const nlohmann::ordered_json& facts);

/// What `plan`, one of the comparison, does, and why it is as fast as it is, in sentences.
[[nodiscard]] std::vector<std::string> reasons(const Comparison& comparison, const ComparedPlan& plan);

}  // namespace weft::tools
