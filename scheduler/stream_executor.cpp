#include "scheduler/stream_executor.h"

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/first_error.h"
#include "scheduler/trace.h"

namespace weft::scheduler {

StreamExecutor::StreamExecutor(Device device, const Graph& graph, const Plan& plan, const SlotMap& slots)
    : graph_(graph),
      plan_(plan),
      stream_of_task_(graph.tasks.size(), kNoId),
      waits_(graph.tasks.size()),
      records_(graph.tasks.size(), false),
      clock_(make_stream_clock(device, num_points(graph.num_tasks()))) {
  if (device.kind != DeviceKind::kCpu)
    for (TaskId t = 0; t < graph.num_tasks(); ++t) names_.push_back(graph.name(t));
  std::array<int, 1U << kNumResources> stream_of_set{};
  stream_of_set.fill(kNoId);
  const StreamSets sets = stream_sets(plan.shape);
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    if (graph.tasks[t].resources.has(Resource::kHost)) continue;
    const ResourceSet occupied = sets[graph.tasks[t].resources.bits()];
    int& stream = stream_of_set[occupied.bits()];
    if (stream == kNoId) {
      stream = static_cast<int>(streams_.size());
      streams_.push_back(
          make_stream(device, stream_name(occupied),
                      occupied.has(Resource::kCompute) ? StreamPriority::kNormal : StreamPriority::kHigh));
    }
    stream_of_task_[t] = stream;
  }
  std::vector<std::vector<TaskId>> sources(graph.tasks.size());
  for (TaskId t = 0; t < graph.num_tasks(); ++t)
    sources[t].assign(graph.dependencies(t).begin(), graph.dependencies(t).end());
  for (const SlotMap::Edge& e : slots.reuse_edges) sources[e.to].push_back(e.from);

  std::vector<std::int32_t> position(graph.tasks.size());
  for (std::size_t i = 0; i < plan.issue_order.size(); ++i)
    position[plan.issue_order[i]] = static_cast<std::int32_t>(i);
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    std::vector<TaskId> last(streams_.size(),
                             kNoId);  // a stream is first in, first out: its latest source covers the others
    for (const TaskId s : sources[t]) {
      if (on_host(s)) continue;  // done before `t` is issued
      if (TaskId& known = last[stream_of_task_[s]]; known == kNoId || position[s] > position[known]) known = s;
    }
    for (std::size_t stream = 0; stream < last.size(); ++stream) {
      if (last[stream] == kNoId || static_cast<int>(stream) == stream_of_task_[t]) continue;
      waits_[t].push_back(last[stream]);
      records_[last[stream]] = true;
      ++num_crossings_;
    }
  }
}

StreamExecutor::~StreamExecutor() = default;

/// One run: what is issued so far, and when it ran.
class StreamExecutor::Run {
 public:
  Run(const StreamExecutor& executor, const std::vector<TaskBody>& bodies, Arena& arena)
      : executor_(executor),
        clock_(*executor.clock_),
        bodies_(bodies),
        arena_(arena),
        done_(bodies.size()),
        host_(make_inline_stream()) {}

  void issue(TaskId t) {
    if (executor_.on_host(t)) {
      for (const TaskId source : executor_.waits_[t]) done_[source].wait();
      return perform(t, *host_);
    }
    Stream& stream = *executor_.streams_[executor_.stream_of_task_[t]];
    for (const TaskId source : executor_.waits_[t]) stream.wait(done_[source]);
    stream.enqueue([this, t, &stream] { perform(t, stream); });
    if (executor_.records_[t]) done_[t] = stream.record();
  }

 private:
  void perform(TaskId t, Stream& stream) {
    TaskContext context{stream, arena_};
    clock_.note(start_point(t), stream);
    try {
      const LaunchRange range(executor_.names_.empty() ? nullptr : executor_.names_[t].c_str());
      bodies_[t](context);
    } catch (const Error& e) {
      throw Error(e.code(), str(executor_.graph_.name(t), ": ", e.message()), e.hint());
    }
    clock_.note(end_point(t), stream);
  }
  const StreamExecutor& executor_;
  StreamClock& clock_;
  const std::vector<TaskBody>& bodies_;
  Arena& arena_;
  std::vector<Event> done_;
  std::unique_ptr<Stream> host_;
};

/// Calls work() at the clock's 0, and waits for all streams.
Timeline StreamExecutor::launch(const std::function<void()>& work) {
  clock_->start();
  FirstError error;
  error.run(work);
  for (const auto& stream : streams_) error.run([&] { stream->synchronize(); });
  error.rethrow();
  return read_timeline(*clock_, graph_.num_tasks());
}

Timeline StreamExecutor::run(const std::vector<TaskBody>& bodies, Arena& arena) {
  Run run(*this, bodies, arena);  // outlives what it has issued
  return launch([&] {             // ends early when a task that the host waits for has failed
    for (const TaskId t : plan_.issue_order) run.issue(t);
  });
}

std::unique_ptr<Recording> StreamExecutor::record(const std::vector<TaskBody>& bodies, Arena& arena) {
  std::vector<Stream*> streams;
  for (const auto& stream : streams_) streams.push_back(stream.get());
  return weft::record(streams, [&] {
    Run run(*this, bodies, arena);
    for (const TaskId t : plan_.issue_order) {
      WEFT_CHECK(!on_host(t), graph_.name(t), " waits for the host: it cannot be recorded");
      run.issue(t);
    }
  });
}

Timeline StreamExecutor::run_recorded(Recording& recording) {
  return launch([&] { recording.launch(*streams_.front()); });
}

}  // namespace weft::scheduler
