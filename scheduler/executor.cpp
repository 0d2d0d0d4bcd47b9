#include "scheduler/executor.h"

#include <algorithm>
#include <chrono>
#include <exception>

#include "core/error.h"

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

Timeline execute_inline(const Graph& graph, const Plan& plan, const std::vector<TaskBody>& bodies, Arena& arena) {
  using Clock = std::chrono::steady_clock;
  const auto stream = make_inline_stream();
  TaskContext context{*stream, arena};
  Timeline out{std::vector<double>(bodies.size()), std::vector<double>(bodies.size()), 0.0};
  const Clock::time_point origin = Clock::now();
  const auto now_us = [&] { return std::chrono::duration<double, std::micro>(Clock::now() - origin).count(); };
  for (const TaskId t : plan.issue_order) {
    out.start_us[t] = now_us();
    try {
      bodies[t](context);
    } catch (const Error& e) {
      throw Error(e.code(), str(graph.name(t), ": ", e.message()), e.hint());
    }
    out.end_us[t] = now_us();
  }
  out.total_us = now_us();
  return out;
}

}  // namespace weft::scheduler
