// scheduler/stream_executor.h - runs a plan on one stream per set of resources, so that communication and computation
// overlap.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/recording.h"
#include "core/stream.h"
#include "scheduler/executor.h"

namespace weft::scheduler {

/// Issues a step's tasks in issue order onto streams: tasks of one ResourceSet share a stream (first in, first out),
/// and every edge of the graph and of the slots that crosses streams is an event. A task of Resource::kHost runs on the
/// thread that calls run(), which waits for what it depends on, and then issues the next: it blocks nowhere else before
/// the end. Equal plans give the bits of execute_inline: the edges order all that touches the
/// same memory. Collectives of one communicator must all lie on one stream, or be ordered by edges.
class StreamExecutor {
 public:
  /// Works out once which edges cross streams. graph, plan and slots must fit each other (validate()).
  StreamExecutor(Device device, const Graph& graph, const Plan& plan, const SlotMap& slots);
  ~StreamExecutor();
  StreamExecutor(const StreamExecutor&) = delete;
  StreamExecutor& operator=(const StreamExecutor&) = delete;

  /// bodies: [tasks]. Times are those of the device (core/stream_clock.h). Throws the first error of a task, with the
  /// task's name in front, once all streams are drained; tasks that depend on it do not run.
  Timeline run(const std::vector<TaskBody>& bodies, Arena& arena);

  /// What run() would launch, on a GPU, with the clock's events: nothing of it runs. No task may be one of
  /// Resource::kHost. Each launch reads and writes what the recorded one would have. Throws as weft::record().
  [[nodiscard]] std::unique_ptr<Recording> record(const std::vector<TaskBody>& bodies, Arena& arena);
  /// As run(), for what record() gave.
  Timeline run_recorded(Recording& recording);

  [[nodiscard]] int num_streams() const noexcept { return static_cast<int>(streams_.size()); }
  [[nodiscard]] int num_crossings() const noexcept { return num_crossings_; }  ///< Events that a step waits for.

 private:
  class Run;

  Timeline launch(const std::function<void()>& work);
  [[nodiscard]] bool on_host(TaskId t) const { return stream_of_task_[static_cast<std::size_t>(t)] == kNoId; }
  const Graph& graph_;
  const Plan& plan_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<int> stream_of_task_;         ///< [tasks] kNoId: the host's own thread.
  std::vector<std::vector<TaskId>> waits_;  ///< [tasks] tasks on other streams to wait for, at most one per stream.
  std::vector<bool> records_;               ///< [tasks] some other stream waits for it.
  int num_crossings_ = 0;
  std::unique_ptr<StreamClock> clock_;  ///< Start and end of each task, and the end of the step.
  std::vector<std::string> names_;      ///< [tasks] for profilers of a GPU; empty on the CPU.
};

}  // namespace weft::scheduler
