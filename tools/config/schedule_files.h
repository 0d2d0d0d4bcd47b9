// tools/config/schedule_files.h - plans and cluster costs as text files.
#pragma once

#include <string>

#include "scheduler/cost_model.h"
#include "scheduler/plan.h"

namespace weft::tools {

/// Costs of configs/cluster.proto. Throws Error{kIo} for a missing file, Error{kInvalidArgument} for bad text, a
/// negative cost or a kind of work given twice or not at all.
[[nodiscard]] scheduler::CostModel load_costs(const std::string& path);
/// configs/clusters/nominal_cpu.textproto: from the current folder, else from the folders above the executable.
[[nodiscard]] scheduler::CostModel nominal_costs();

/// A plan as text (configs/plan.proto), and back. plan_from_text throws Error{kInvalidArgument} for bad text or a
/// digest that does not hold.
[[nodiscard]] std::string plan_to_text(const scheduler::Plan& plan);
[[nodiscard]] scheduler::Plan plan_from_text(const std::string& text, const std::string& origin);

}  // namespace weft::tools
