// scheduler/local_search.h - tabu search on the order of each resource: shortens a schedule whose Shape is fixed.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "scheduler/instance.h"

namespace weft::scheduler {

/// Job-shop tabu search. A move turns round two neighbours on one resource that stand at the edge of a block of a
/// critical path (a block: consecutive tasks of the path on one resource); the best move by estimate that was not
/// undone lately is made, whether it is shorter or not. Source: Nowicki and Smutnicki, "A fast taboo search algorithm
/// for the job shop problem", Management Science 42(6), 1996 (blocks); Taillard, "Parallel taboo search techniques for
/// the job shop scheduling problem", ORSA J. Computing 6(2), 1994 (estimates). Turning round a critical pair never
/// makes a cycle. Deterministic for a seed.
class LocalSearch {
 public:
  explicit LocalSearch(const Instance& instance);

  /// At most `iterations` moves from `schedule`; leaves the best schedule found there. O(tasks + edges) per move.
  void run(int iterations, std::uint64_t seed, Schedule& schedule);

 private:
  struct Move {
    TaskId first = kNoId, second = kNoId;  // neighbours on `resource`, to be turned round
    double estimate = 0.0;
  };
  using Links = std::array<std::vector<TaskId>, kNumResources>;  // [tasks] neighbour on each resource, or kNoId

  void take_orders(const Schedule& schedule);
  double evaluate();
  void critical_path();
  [[nodiscard]] Move best_move(int iteration, double best);
  void consider(TaskId first, TaskId second, int iteration, double best, Move& chosen);
  [[nodiscard]] double estimate(TaskId first, TaskId second) const;
  [[nodiscard]] bool joined(TaskId first, TaskId second) const;
  void turn_round(TaskId first, TaskId second);
  [[nodiscard]] Schedule schedule() const;
  [[nodiscard]] std::uint32_t random() noexcept;

  const Instance& in_;
  Links before_, after_;
  std::vector<double> head_, tail_;  // tail: from the start of a task to the end
  std::vector<TaskId> order_;        // topological, resources included
  std::vector<std::int32_t> missing_;
  std::vector<TaskId> path_;
  std::unordered_map<std::uint64_t, int> tabu_until_;  // by (first, second) that must not come back
  double makespan_ = 0.0;
  std::uint64_t random_state_ = 1;
};

}  // namespace weft::scheduler
