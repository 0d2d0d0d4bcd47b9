#include "tools/simulate/policies.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "tools/config/schema.h"

namespace weft::tools {

namespace {

/// Marks the policies that `name` stands for.
void mark(const std::string& name, std::array<bool, scheduler::kNumPolicies>& wanted) {
  std::vector<std::string> names{"all"};
  for (int p = 0; p < scheduler::kNumPolicies; ++p)
    names.emplace_back(to_string(static_cast<scheduler::PolicyKind>(p)));
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.begin()) return wanted.fill(true);
  if (found != names.end()) {
    wanted[static_cast<std::size_t>(found - names.begin() - 1)] = true;
    return;
  }
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  const std::string guess = nearest(name, names);
  throw Error(ErrorCode::kInvalidArgument, str("there is no policy '", name, "'"),
              guess.empty() ? "one of: " + list : "did you mean " + guess + "? One of: " + list);
}

}  // namespace

std::vector<scheduler::PolicyKind> policies_named(const std::string& names) {
  std::array<bool, scheduler::kNumPolicies> wanted{};
  std::size_t start = 0;
  for (std::size_t comma = 0; comma != std::string::npos; start = comma + 1) {
    comma = names.find(',', start);
    mark(names.substr(start, comma - start), wanted);
  }
  std::vector<scheduler::PolicyKind> out;
  for (int p = 0; p < scheduler::kNumPolicies; ++p)
    if (wanted[static_cast<std::size_t>(p)]) out.push_back(static_cast<scheduler::PolicyKind>(p));
  return out;
}

std::vector<scheduler::PolicyPlan> plans_of(const std::vector<scheduler::PolicyKind>& policies,
                                            const scheduler::Emitter& emitter, const scheduler::CostModel& cost,
                                            const scheduler::PolicyOptions& options) {
  if (policies.size() == 1) return {scheduler::make_plan(policies.front(), emitter, cost, options)};
  std::vector<scheduler::PolicyPlan> all = scheduler::make_all_plans(emitter, cost, options), out;
  for (const scheduler::PolicyKind policy : policies) out.push_back(std::move(all[static_cast<std::size_t>(policy)]));
  return out;
}

}  // namespace weft::tools
