#include "scheduler/timeline.h"

#include <algorithm>
#include <vector>

namespace weft::scheduler {

double exposed_comm_us(const Graph& graph, const Timeline& timeline) {
  struct Change {
    double at;
    int compute, comm;  // +1 a task of that kind starts, -1 it ends
  };
  std::vector<Change> changes;
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const bool compute = graph.tasks[t].resources.has(Resource::kCompute);
    changes.push_back({timeline.start_us[t], compute ? 1 : 0, compute ? 0 : 1});
    changes.push_back({timeline.end_us[t], compute ? -1 : 0, compute ? 0 : -1});
  }
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.at < b.at; });
  double exposed = 0.0, before = 0.0;
  int compute = 0, comm = 0;
  for (const Change& change : changes) {
    if (comm > 0 && compute == 0) exposed += change.at - before;
    before = change.at;
    compute += change.compute;
    comm += change.comm;
  }
  return exposed;
}

}  // namespace weft::scheduler
