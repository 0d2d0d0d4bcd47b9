#include "scheduler/executor.h"

#include <exception>

#include "core/error.h"

namespace weft::scheduler {

Timeline execute_inline(const Graph& graph, const Plan& plan, const std::vector<TaskBody>& bodies, Arena& arena,
                        Stream& stream, StreamClock& clock, const TaskHooks& hooks) {
  const bool launches = stream.device().kind != DeviceKind::kCpu;
  const std::unique_ptr<Stream> host = make_inline_stream();
  TaskContext context{stream, arena};
  const auto perform = [&](TaskId t, const Stream& timed) {
    clock.note(start_point(t), timed);
    try {
      bodies[t](context);
    } catch (const Error& e) {
      throw Error(e.code(), str(graph.name(t), ": ", e.message()), e.hint());
    }
    clock.note(end_point(t), timed);
  };
  clock.start();
  for (const TaskId t : plan.issue_order) {
    const bool on_host = graph.tasks[t].resources.has(Resource::kHost);
    if (hooks.before) hooks.before(t);
    if (launches && on_host) stream.synchronize();  // and nothing runs on should the host fail now
    if (launches && !on_host)
      stream.enqueue([&] { perform(t, stream); });
    else
      perform(t, *host);
    if (launches && hooks.after) stream.synchronize();
    if (hooks.after) hooks.after(t);
  }
  if (launches) stream.synchronize();
  return read_timeline(clock, graph.num_tasks());
}

Timeline read_timeline(StreamClock& clock, TaskId num_tasks) {
  const std::size_t end = num_points(num_tasks) - 1;
  clock.note(end, *make_inline_stream());
  Timeline out{{}, {}, clock.us(end)};
  for (TaskId t = 0; t < num_tasks; ++t) {
    out.start_us.push_back(clock.us(start_point(t)));
    out.end_us.push_back(clock.us(end_point(t)));
  }
  return out;
}

}  // namespace weft::scheduler
