#include "scheduler/executor.h"

#include <chrono>
#include <exception>

#include "core/error.h"

namespace weft::scheduler {

Timeline execute_inline(const Graph& graph, const Plan& plan, const std::vector<TaskBody>& bodies, Arena& arena,
                        Stream& stream, const TaskHooks& hooks) {
  using Clock = std::chrono::steady_clock;
  const bool launches = stream.device().kind != DeviceKind::kCpu;
  TaskContext context{stream, arena};
  Timeline out{std::vector<double>(bodies.size()), std::vector<double>(bodies.size()), 0.0};
  const Clock::time_point origin = Clock::now();
  const auto now_us = [&] { return std::chrono::duration<double, std::micro>(Clock::now() - origin).count(); };
  const auto perform = [&](TaskId t) {
    try {
      bodies[t](context);
    } catch (const Error& e) {
      throw Error(e.code(), str(graph.name(t), ": ", e.message()), e.hint());
    }
  };
  for (const TaskId t : plan.issue_order) {
    const bool on_host = graph.tasks[t].resources.has(Resource::kHost);
    if (hooks.before) hooks.before(t);
    out.start_us[t] = now_us();
    if (launches && on_host) stream.synchronize();  // and nothing runs on should the host fail now
    if (launches && !on_host)
      stream.enqueue([&] { perform(t); });
    else
      perform(t);
    if (launches && hooks.after) stream.synchronize();
    out.end_us[t] = now_us();
    if (hooks.after) hooks.after(t);
  }
  if (launches) stream.synchronize();
  out.total_us = now_us();
  return out;
}

}  // namespace weft::scheduler
