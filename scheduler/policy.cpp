#include "scheduler/policy.h"

#include <numeric>

namespace weft::scheduler {

Plan sequential_plan(const Graph& graph, const Shape& shape) {
  Plan plan{"sequential", shape, std::vector<TaskId>(graph.tasks.size())};
  std::iota(plan.issue_order.begin(), plan.issue_order.end(), 0);
  return plan;
}

}  // namespace weft::scheduler
