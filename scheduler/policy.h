// scheduler/policy.h - policies: pure functions from an emitter and a cost model to a plan. Same input, same plan. All
// run on the same tasks, kernels and collectives, so that a comparison compares schedules and nothing else.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "scheduler/search.h"

namespace weft::scheduler {

/// kSequential: DeepSpeed-MoE, one stage after the other (arXiv:2201.05596, section 5).
/// kTutel: chunks of the MoE layer pipelined on one communication stream, one degree for both directions (Tutel,
///   MLSys'23, with PipeMoE's choice of degree, INFOCOM'23); gradients reduced after the backward.
/// kTutelImproved: and gradients reduced beside attention (FSMoE, section 6.1).
/// kPipeMoeLina: gradients in fixed pieces of 30 MB, whenever no all-to-all wants the link (Lina, ATC'23).
/// kFsMoeNoIio: FSMoE without overlap of the two kinds of links: one communication stream.
/// kFsMoe: FSMoE's order on three streams, a degree per direction, adaptive gradient partition (arXiv:2501.10714,
///   sections 4 and 5).
/// kFlowMoe: whole blocks pipelined over sub-batches on one communication stream, gradient pieces at low priority
///   (arXiv:2510.00207).
/// kWeft: scheduler/search.h, with the plans of all others as incumbents.
enum class PolicyKind : std::uint8_t {
  kSequential,
  kTutel,
  kTutelImproved,
  kPipeMoeLina,
  kFsMoeNoIio,
  kFsMoe,
  kFlowMoe,
  kWeft
};
inline constexpr int kNumPolicies = 8;
[[nodiscard]] std::string_view to_string(PolicyKind policy) noexcept;  ///< "sequential", "tutel", ..., "weft".

struct PolicyOptions {
  std::vector<int> degrees{1, 2, 4, 8};  ///< Chunk degrees that the policies other than weft choose from.
  double lina_piece_bytes = 30e6;
  SearchOptions search;  ///< Of weft. The memory limit holds for every policy.
};

struct PolicyPlan {
  Plan plan;
  PlanPrice price;
  std::int64_t num_candidates = 1;  ///< Plans that were priced to find it.
};

/// Throws kInvalidArgument when no plan of the policy fits the memory limit.
[[nodiscard]] PolicyPlan make_plan(PolicyKind policy, const Emitter& emitter, const CostModel& cost,
                                   const PolicyOptions& options = {});
/// The plans of all policies, in the order of PolicyKind: weft's search starts from the others' plans. A policy whose
/// plan does not fit the memory limit has a price of infinity and an empty order.
[[nodiscard]] std::vector<PolicyPlan> make_all_plans(const Emitter& emitter, const CostModel& cost,
                                                     const PolicyOptions& options = {});

}  // namespace weft::scheduler
