// scheduler/executor.h - runs a graph's closures in the order of a plan.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/stream.h"
#include "core/stream_clock.h"
#include "scheduler/arena.h"
#include "scheduler/graph.h"
#include "scheduler/plan.h"
#include "scheduler/timeline.h"

namespace weft::scheduler {

/// What a task sees when it runs.
struct TaskContext {
  Stream& stream;
  Arena& arena;
};
using TaskBody = std::function<void(TaskContext&)>;

/// kInline: one thread, issue order. kStreams: a stream per set of resources (scheduler/stream_executor.h). kRecorded:
/// likewise, and on a GPU the whole is recorded and launched as one, where nothing in it waits for the host.
enum class ExecutorKind : std::uint8_t { kInline, kStreams, kRecorded };

/// Called around each task, on the thread that runs it: for measuring. Null: not called.
struct TaskHooks {
  std::function<void(TaskId)> before, after;
};

/// Points of a clock over a step: start and end of each task, and the end of the step.
[[nodiscard]] constexpr std::size_t start_point(TaskId t) { return 2 * static_cast<std::size_t>(t); }
[[nodiscard]] constexpr std::size_t end_point(TaskId t) { return start_point(t) + 1; }
[[nodiscard]] constexpr std::size_t num_points(TaskId num_tasks) { return start_point(num_tasks) + 1; }
/// What the clock shows of a step that ends now.
[[nodiscard]] Timeline read_timeline(StreamClock& clock, TaskId num_tasks);

/// One thread, issue order, one stream of the arena's device. bodies: [tasks]. The first error of a task is rethrown
/// with the task's name in front; tasks after it do not run. Cost beyond the bodies: two clock reads per task. clock:
/// of the stream's device, with num_points() points. On a GPU
/// tasks are launched one after the other, and the call returns when they are done; with hooks it waits for each, and a
/// task of the host waits for those before it.
Timeline execute_inline(const Graph& graph, const Plan& plan, const std::vector<TaskBody>& bodies, Arena& arena,
                        Stream& stream, StreamClock& clock, const TaskHooks& hooks = {});

}  // namespace weft::scheduler
