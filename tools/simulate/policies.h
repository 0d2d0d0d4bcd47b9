// tools/simulate/policies.h - policies by name.
#pragma once

#include <string>
#include <vector>

#include "scheduler/policy.h"

namespace weft::tools {

/// The policies of a list of names with commas between, "all" for all of them: each once, weft the last. Throws
/// kInvalidArgument with the nearest name.
[[nodiscard]] std::vector<scheduler::PolicyKind> policies_named(const std::string& names);

/// A plan of each of `policies`, in their order; weft's is held against the plans of all others. Of one policy that
/// does not fit the memory limit: throws; of several: a price of infinity and an empty order for it.
[[nodiscard]] std::vector<scheduler::PolicyPlan> plans_of(const std::vector<scheduler::PolicyKind>& policies,
                                                          const scheduler::Emitter& emitter,
                                                          const scheduler::CostModel& cost,
                                                          const scheduler::PolicyOptions& options = {});

}  // namespace weft::tools
