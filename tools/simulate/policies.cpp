#include "tools/simulate/policies.h"

#include "core/error.h"
#include "tools/config/schema.h"

namespace weft::tools {

std::vector<scheduler::PolicyKind> policies_named(const std::string& name) {
  std::vector<scheduler::PolicyKind> all;
  std::vector<std::string> names{"all"};
  for (int p = 0; p < scheduler::kNumPolicies; ++p) {
    all.push_back(static_cast<scheduler::PolicyKind>(p));
    names.emplace_back(to_string(all.back()));
    if (name == names.back()) return {all.back()};
  }
  if (name == "all") return all;
  std::string list;
  for (const std::string& n : names) list += (list.empty() ? "" : ", ") + n;
  const std::string guess = nearest(name, names);
  throw Error(ErrorCode::kInvalidArgument, str("there is no policy '", name, "'"),
              guess.empty() ? "one of: " + list : "did you mean " + guess + "? One of: " + list);
}

}  // namespace weft::tools
