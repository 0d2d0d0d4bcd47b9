#include "tests/support/schedule_checker.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "core/error.h"

namespace weft::test {

using namespace weft::scheduler;

std::vector<std::string> faults(const Graph& graph, const Shape& shape, const CostModel& cost,
                                const Timeline& timeline) {
  std::vector<std::string> out;
  const double slack = 1e-9 * std::max(1.0, timeline.total_us);
  double last = 0.0;
  const StreamSets sets = stream_sets(shape);
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    last = std::max(last, timeline.end_us[t]);
    if (timeline.start_us[t] < -slack) out.push_back(graph.name(t) + " starts before the step");
    if (std::abs(timeline.end_us[t] - timeline.start_us[t] - cost.cost_us(graph.tasks[t])) > slack)
      out.push_back(graph.name(t) + " does not last as long as it costs");
    for (const TaskId d : graph.dependencies(t))
      if (timeline.start_us[t] < timeline.end_us[d] - slack)
        out.push_back(graph.name(t) + " starts before the end of " + graph.name(d));
  }
  for (int r = 0; r < kNumResources; ++r) {
    std::vector<TaskId> users;
    for (TaskId t = 0; t < graph.num_tasks(); ++t)
      if (sets[graph.tasks[t].resources.bits()].has(static_cast<Resource>(r)) &&
          timeline.end_us[t] > timeline.start_us[t] + slack)
        users.push_back(t);
    std::sort(users.begin(), users.end(),
              [&](TaskId a, TaskId b) { return timeline.start_us[a] < timeline.start_us[b]; });
    for (std::size_t i = 1; i < users.size(); ++i)
      if (timeline.start_us[users[i]] < timeline.end_us[users[i - 1]] - slack)
        out.push_back(graph.name(users[i]) + " runs beside " + graph.name(users[i - 1]) + " on one resource");
  }
  if (std::abs(last - timeline.total_us) > slack)
    out.push_back(str("the total is ", timeline.total_us, ", the last end ", last));

  struct Flight {
    double first = std::numeric_limits<double>::infinity(), last = 0.0;
  };
  std::map<int, Flight> flights;
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    if (graph.tasks[t].micro_batch == kNoId) continue;
    Flight& f = flights[graph.tasks[t].micro_batch];
    f.first = std::min(f.first, timeline.start_us[t]);
    f.last = std::max(f.last, timeline.end_us[t]);
  }
  if (shape.micro_batches_in_flight > 0)
    for (const auto& [m, f] : flights) {
      int beside = 0;
      for (const auto& [other, g] : flights) beside += g.first <= f.first + slack && g.last > f.first + slack ? 1 : 0;
      if (beside > shape.micro_batches_in_flight)
        out.push_back(str(beside, " micro-batches are in flight when ", m, " starts"));
    }
  return out;
}

}  // namespace weft::test
