// scheduler/instance.h - a graph under a cost model as a scheduling problem: flat arrays for search, and list
// scheduling on them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "scheduler/cost_model.h"
#include "scheduler/plan.h"

namespace weft::scheduler {

/// Tasks 0 .. n-1 with durations, what they exclude, and precedence. Times in microseconds.
struct Instance {
  /// `shape` gives the streams: tasks exclude one another by stream_sets(shape). `extra`: (before, after) pairs that
  /// come on top of the graph's edges.
  Instance(const Graph& graph, const Shape& shape, const CostModel& cost,
           std::span<const std::pair<TaskId, TaskId>> extra = {});
  /// The same problem backwards in time.
  [[nodiscard]] Instance reversed() const;

  [[nodiscard]] std::int32_t size() const { return static_cast<std::int32_t>(duration.size()); }
  [[nodiscard]] std::span<const TaskId> predecessors(TaskId t) const {
    return {pred.data() + first_pred[t], static_cast<std::size_t>(first_pred[t + 1] - first_pred[t])};
  }
  [[nodiscard]] std::span<const TaskId> successors(TaskId t) const {
    return {succ.data() + first_succ[t], static_cast<std::size_t>(first_succ[t + 1] - first_succ[t])};
  }

  std::vector<double> duration;
  std::vector<std::uint8_t> occupied;                ///< Resource bits; 0: nothing, as of all tasks without a duration.
  std::vector<std::int32_t> first_pred, first_succ;  ///< [n + 1]
  std::vector<TaskId> pred, succ;
  std::vector<TaskId> topological;  ///< An order in which predecessors come first.

 private:
  Instance() = default;
};

/// Longest path from the start of each task to the end of the step, the task included.
[[nodiscard]] std::vector<double> tails(const Instance& instance);
/// Longest path from the start of the step to the start of each task.
[[nodiscard]] std::vector<double> heads(const Instance& instance);

struct Schedule {
  std::vector<double> start;  ///< [tasks]
  std::vector<TaskId> order;  ///< By start; a linear extension of the precedence.
  double makespan = 0.0;
};

/// Parallel schedule generation: whenever a resource is free, the ready task of the largest priority goes next, ties to
/// the lower number. Source: Graham, "Bounds on multiprocessing timing anomalies", SIAM J. Appl. Math. 17(2), 1969.
/// Reuses its memory from call to call: O(edges + tasks log tasks) each.
class ListScheduler {
 public:
  /// priority: [tasks].
  void run(const Instance& instance, const std::vector<double>& priority, Schedule& out);

 private:
  using Entry = std::pair<double, TaskId>;  // priority, minus the task
  struct Lane {                             // the tasks of one set of resources
    std::uint8_t bits = 0;
    std::vector<Entry> heap;
  };
  std::size_t make_lanes(const Instance& instance);
  void make_ready(const Instance& instance, TaskId t, double now, Schedule& out);

  const std::vector<double>* priority_ = nullptr;  // of the run at hand
  std::vector<Lane> lanes_;
  std::array<std::int8_t, 1U << kNumResources> lane_of_bits_{};
  std::vector<std::int32_t> missing_;
  std::vector<TaskId> stack_;
};

/// Forward-backward improvement: the schedule is pushed to the right (list scheduling backwards in time, late ends
/// first), then to the left, while that makes it shorter; at most `rounds` times. Source: Li and Willis, "An iterative
/// scheduling technique for resource-constrained project scheduling", EJOR 56(3), 1992; Valls et al., "Justification
/// and RCPSP", EJOR 165(2), 2005. Returns the number of list schedules it made.
int justify(ListScheduler& lists, const Instance& forward, const Instance& backward, int rounds, Schedule& schedule);

}  // namespace weft::scheduler
