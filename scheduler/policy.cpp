#include "scheduler/policy.h"

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <queue>
#include <tuple>
#include <utility>
#include <vector>

namespace weft::scheduler {
namespace {

/// Cost of the longest path from the start of each task to the end of the step.
std::vector<double> upward_ranks(const Graph& graph, const std::vector<double>& cost) {
  std::vector<double> rank(graph.tasks.size());
  for (TaskId t = graph.num_tasks() - 1; t >= 0; --t) {  // emission order is a valid order: users come later
    rank[t] += cost[t];
    for (const TaskId d : graph.dependencies(t)) rank[d] = std::max(rank[d], rank[t]);
  }
  return rank;
}

/// The step as it would run, one event after the other: what is ready, what is free.
class ListScheduler {
 public:
  ListScheduler(const Graph& graph, const CostModel& model)
      : graph_(graph), missing_(graph.tasks.size()), users_(graph.tasks.size()) {
    for (TaskId t = 0; t < graph.num_tasks(); ++t) {
      const auto m = static_cast<std::size_t>(graph.tasks[t].micro_batch + 1);  // 0: tasks of no micro-batch
      if (m >= unfinished_.size()) unfinished_.resize(m + 1);
      ++unfinished_[m];
      cost_.push_back(model.cost_us(graph.tasks[t]));
      missing_[t] = static_cast<int>(graph.dependencies(t).size());
      for (const TaskId d : graph.dependencies(t)) users_[d].push_back(t);
    }
    rank_ = upward_ranks(graph, cost_);
    held_.resize(unfinished_.size() + kInFlight);
  }

  std::vector<TaskId> run() {
    std::vector<TaskId> order;
    for (TaskId t = 0; t < graph_.num_tasks(); ++t)
      if (missing_[t] == 0) ready(t);
    while (order.size() < graph_.tasks.size()) {
      while (start_one(order)) {
      }
      if (running_.empty()) break;
      finish_next();
    }
    return order;
  }

 private:
  /// Minus the micro-batch, rank, minus the task: older micro-batches first, ties to the one emitted first.
  using Key = std::tuple<int, double, TaskId>;
  static constexpr std::size_t kInFlight = 2;  // micro-batches whose activations may live at once

  void ready(TaskId t) {
    const auto m = static_cast<std::size_t>(graph_.tasks[t].micro_batch + 1);
    if (m > kInFlight && unfinished_[m - kInFlight] > 0)
      held_[m].push_back(t);
    else
      ready_[graph_.tasks[t].resources.bits()].push({-graph_.tasks[t].micro_batch, rank_[t], -t});
  }

  /// Starts the most urgent ready task whose resources are all free.
  bool start_one(std::vector<TaskId>& order) {
    int best = kNoId;
    for (int set = 0; set < static_cast<int>(ready_.size()); ++set) {
      if (ready_[set].empty() || (busy_ & set) != 0) continue;
      if (best == kNoId || ready_[set].top() > ready_[best].top()) best = set;
    }
    if (best == kNoId) return false;
    const TaskId t = -std::get<2>(ready_[best].top());
    ready_[best].pop();
    busy_ |= best;
    running_.push({now_ + cost_[t], t});
    order.push_back(t);
    return true;
  }

  void finish_next() {
    const auto [end, t] = running_.top();
    running_.pop();
    now_ = end;
    busy_ &= ~static_cast<int>(graph_.tasks[t].resources.bits());
    const auto m = static_cast<std::size_t>(graph_.tasks[t].micro_batch + 1);
    if (--unfinished_[m] == 0 && m > 0)
      for (const TaskId held : std::exchange(held_[m + kInFlight], {})) ready(held);
    for (const TaskId user : users_[t])
      if (--missing_[user] == 0) ready(user);
  }

  const Graph& graph_;
  std::vector<double> cost_, rank_;
  std::vector<int> missing_;
  std::vector<int> unfinished_;            // tasks, by micro-batch + 1
  std::vector<std::vector<TaskId>> held_;  // ready, but of a micro-batch that may not start yet
  std::vector<std::vector<TaskId>> users_;
  std::array<std::priority_queue<Key>, 1U << kNumResources> ready_;  // by resource set
  std::priority_queue<std::pair<double, TaskId>, std::vector<std::pair<double, TaskId>>, std::greater<>>
      running_;   // by end
  int busy_ = 0;  // resource bits
  double now_ = 0.0;
};

}  // namespace

Plan sequential_plan(const Graph& graph, const Shape& shape) {
  Plan plan{"sequential", shape, std::vector<TaskId>(graph.tasks.size())};
  std::iota(plan.issue_order.begin(), plan.issue_order.end(), 0);
  return plan;
}

Plan list_plan(const Graph& graph, const Shape& shape, const CostModel& cost) {
  return {"list", shape, ListScheduler(graph, cost).run()};
}

}  // namespace weft::scheduler
