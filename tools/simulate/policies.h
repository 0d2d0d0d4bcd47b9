// tools/simulate/policies.h - policies by name.
#pragma once

#include <string>
#include <vector>

#include "scheduler/policy.h"

namespace weft::tools {

/// All policies for "all" (weft is the last), else the one of that name. Throws kInvalidArgument with the nearest name.
[[nodiscard]] std::vector<scheduler::PolicyKind> policies_named(const std::string& name);

}  // namespace weft::tools
