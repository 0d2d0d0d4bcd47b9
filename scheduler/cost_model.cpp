#include "scheduler/cost_model.h"

#include <algorithm>

namespace weft::scheduler {

double CostModel::cost_us(const TaskSpec& task) const {
  if (task.work.kind == WorkKind::kNothing) return 0.0;
  const auto& costs = task.resources.has(Resource::kInter) ? inter : intra;
  const LinearCost& c = costs[static_cast<std::size_t>(task.work.kind)];
  return c.alpha_us * task.work.operations + c.beta_us * task.work.amount;
}

Timeline simulate(const Graph& graph, const Plan& plan, const SlotMap& slots, const CostModel& cost,
                  bool single_stream) {
  const std::size_t n = graph.tasks.size();
  Timeline out{std::vector<double>(n, 0.0), std::vector<double>(n, 0.0), 0.0};
  std::vector<double> slot_ready(n, 0.0);  // by reuse edges, pushed forward from their sources
  std::vector<std::vector<TaskId>> reuse(n);
  for (const SlotMap::Edge& e : slots.reuse_edges) reuse[e.from].push_back(e.to);
  std::array<double, kNumResources> resource_free{};
  std::array<double, 1U << kNumResources> stream_free{};

  for (const TaskId t : plan.issue_order) {
    const Task& task = graph.tasks[t];
    double start = slot_ready[t];
    for (const TaskId d : graph.dependencies(t)) start = std::max(start, out.end_us[d]);
    double& stream = stream_free[single_stream ? 0 : task.resources.bits()];
    start = std::max(start, stream);
    for (int r = 0; r < kNumResources; ++r)
      if (task.resources.has(static_cast<Resource>(r))) start = std::max(start, resource_free[r]);
    const double end = start + cost.cost_us(task);
    for (int r = 0; r < kNumResources; ++r)
      if (task.resources.has(static_cast<Resource>(r))) resource_free[r] = end;
    stream = end;
    out.start_us[t] = start;
    out.end_us[t] = end;
    out.total_us = std::max(out.total_us, end);
    for (const TaskId to : reuse[t]) slot_ready[to] = std::max(slot_ready[to], end);
  }
  return out;
}

}  // namespace weft::scheduler
