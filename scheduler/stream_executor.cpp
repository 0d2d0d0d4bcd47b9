#include "scheduler/stream_executor.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "core/error.h"
#include "scheduler/trace.h"

namespace weft::scheduler {
namespace {

using Clock = std::chrono::steady_clock;

}  // namespace

StreamExecutor::StreamExecutor(Device device, const Graph& graph, const Plan& plan, const SlotMap& slots)
    : graph_(graph),
      plan_(plan),
      stream_of_task_(graph.tasks.size()),
      waits_(graph.tasks.size()),
      records_(graph.tasks.size(), false) {
  std::array<int, 1U << kNumResources> stream_of_set{};
  stream_of_set.fill(kNoId);
  const StreamSets sets = stream_sets(plan.shape);
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
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
    for (const TaskId s : sources[t])
      if (TaskId& known = last[stream_of_task_[s]]; known == kNoId || position[s] > position[known]) known = s;
    for (std::size_t stream = 0; stream < last.size(); ++stream) {
      if (last[stream] == kNoId || static_cast<int>(stream) == stream_of_task_[t]) continue;
      waits_[t].push_back(last[stream]);
      records_[last[stream]] = true;
      ++num_crossings_;
    }
  }
}

StreamExecutor::~StreamExecutor() = default;

Timeline StreamExecutor::run(const std::vector<TaskBody>& bodies, Arena& arena) {
  Timeline out{std::vector<double>(bodies.size()), std::vector<double>(bodies.size()), 0.0};
  const Clock::time_point origin = Clock::now();
  const auto now_us = [origin] { return std::chrono::duration<double, std::micro>(Clock::now() - origin).count(); };
  std::vector<Event> done(bodies.size());
  for (const TaskId t : plan_.issue_order) {
    Stream& stream = *streams_[stream_of_task_[t]];
    for (const TaskId source : waits_[t]) stream.wait(done[source]);
    stream.enqueue([this, t, &bodies, &arena, &stream, &out, now_us] {
      TaskContext context{stream, arena};
      out.start_us[t] = now_us();
      try {
        bodies[t](context);
      } catch (const Error& e) {
        throw Error(e.code(), str(graph_.name(t), ": ", e.message()), e.hint());
      }
      out.end_us[t] = now_us();
    });
    if (records_[t]) done[t] = stream.record();
  }
  std::exception_ptr error;
  for (const auto& stream : streams_) {
    try {
      stream->synchronize();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
  out.total_us = now_us();
  return out;
}

}  // namespace weft::scheduler
