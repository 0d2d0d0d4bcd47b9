#include "scheduler/simulator.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "core/error.h"

namespace weft::scheduler {
namespace {

constexpr int kNumStreams = 1 << kNumResources;  // one per set of resources
constexpr double kNever = std::numeric_limits<double>::infinity();

/// Slot edges by the task that waits.
class ReuseEdges {
 public:
  ReuseEdges(const SlotMap& slots, std::size_t num_tasks) : first_(num_tasks + 1, 0), from_(slots.reuse_edges.size()) {
    for (const SlotMap::Edge& e : slots.reuse_edges) ++first_[static_cast<std::size_t>(e.to) + 1];
    for (std::size_t t = 0; t < num_tasks; ++t) first_[t + 1] += first_[t];
    std::vector<std::int32_t> at(first_.begin(), first_.end() - 1);
    for (const SlotMap::Edge& e : slots.reuse_edges)
      from_[static_cast<std::size_t>(at[static_cast<std::size_t>(e.to)]++)] = e.from;
  }
  [[nodiscard]] std::span<const TaskId> into(TaskId t) const {
    const auto i = static_cast<std::size_t>(t);
    return {from_.data() + first_[i], static_cast<std::size_t>(first_[i + 1] - first_[i])};
  }

 private:
  std::vector<std::int32_t> first_;
  std::vector<TaskId> from_;
};

/// The cost of a task alone on its rank: `computation` times the cost model's where it computes.
struct Prices {
  const CostModel& cost;
  double computation = 1.0;
  [[nodiscard]] double of(const Task& task) const {
    return cost.cost_us(task) * (task.resources.has(Resource::kCompute) ? computation : 1.0);
  }
};

/// Nothing slows anything: each task starts at a maximum over ends known by then, in one pass.
Timeline simulate_alone(const Graph& graph, const Plan& plan, const ReuseEdges& reuse, const Prices& prices,
                        bool single_stream) {
  const std::size_t n = graph.tasks.size();
  Timeline out{std::vector<double>(n, 0.0), std::vector<double>(n, 0.0), 0.0};
  std::array<double, kNumResources> resource_free{};
  std::array<double, kNumStreams> stream_free{};
  double host = 0.0;
  const StreamSets sets = stream_sets(plan.shape);
  for (const TaskId t : plan.issue_order) {
    const Task& task = graph.tasks[t];
    host += prices.cost.machine.issue_us;
    const ResourceSet occupied = sets[task.resources.bits()];
    double& stream = stream_free[single_stream ? 0 : occupied.bits()];
    double start = std::max(host, stream);
    for (const TaskId d : graph.dependencies(t)) start = std::max(start, out.end_us[d]);
    for (const TaskId d : reuse.into(t)) start = std::max(start, out.end_us[d]);
    for (int r = 0; r < kNumResources; ++r)
      if (occupied.has(static_cast<Resource>(r))) start = std::max(start, resource_free[r]);
    const double end = start + prices.of(task);
    for (int r = 0; r < kNumResources; ++r)
      if (occupied.has(static_cast<Resource>(r))) resource_free[r] = end;
    stream = end;
    if (single_stream || task.resources.has(Resource::kHost)) host = end;
    out.start_us[t] = start;
    out.end_us[t] = end;
    out.total_us = std::max(out.total_us, end);
  }
  return out;
}

/// Tasks that run at once slow one another: an event simulation over the heads of the streams. Between events all rates
/// are constant. At most one task per stream runs, so an event costs a constant, and a task has two (issued, done).
class ContendedRun {
 public:
  ContendedRun(const Graph& graph, const Plan& plan, const ReuseEdges& reuse, const Prices& prices)
      : graph_(graph), plan_(plan), reuse_(reuse), prices_(prices), cost_(prices.cost), done_(graph.tasks.size(), 0) {
    const std::size_t n = graph.tasks.size();
    out_ = {std::vector<double>(n, 0.0), std::vector<double>(n, 0.0), 0.0};
    const StreamSets sets = stream_sets(plan.shape);
    for (std::size_t i = 0; i < plan.issue_order.size(); ++i) {
      const std::uint8_t set = sets[graph.tasks[plan.issue_order[i]].resources.bits()].bits();
      if (streams_[set].queue.empty()) used_.push_back(set);
      streams_[set].queue.push_back(static_cast<std::int32_t>(i));
    }
    for (const std::uint8_t a : used_)
      for (const std::uint8_t b : used_) pair_excess_[a][b] = excess(a, b);
    next_issue_ = prices.cost.machine.issue_us;
  }

  Timeline run() {
    const auto n = static_cast<std::int32_t>(plan_.issue_order.size());
    issue_until(n);
    while (num_done_ < n) {
      while (start_ready()) {
      }
      advance(n);
    }
    return std::move(out_);
  }

 private:
  struct Running {
    bool active = false;
    double anchor = 0.0;     // time at which `remaining` was right
    double remaining = 0.0;  // alone-time left
    double slowdown = 1.0;
    [[nodiscard]] double end() const { return anchor + remaining * slowdown; }
  };
  struct Queue {
    std::vector<std::int32_t> queue;  // positions in the issue order
    std::size_t head = 0;
    std::size_t edge = 0;  // of the head: edges before this one are met
    Running running;
    [[nodiscard]] bool empty() const { return head == queue.size(); }
    [[nodiscard]] std::int32_t position() const { return queue[head]; }
  };

  [[nodiscard]] double excess(std::uint8_t a, std::uint8_t b) const {
    double factor = 1.0;
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j)
        if ((a >> i & 1) != 0 && (b >> j & 1) != 0) factor = std::max(factor, cost_.machine.contention[i][j]);
    return factor - 1.0;
  }

  /// True when the stream's head may start: issued, its edges met, no earlier task left on a shared resource.
  bool ready(std::uint8_t set) {
    Queue& s = streams_[set];
    if (s.empty() || s.running.active || s.position() >= num_issued_) return false;
    for (const std::uint8_t other : used_)
      if (other != set && (other & set) != 0 && !streams_[other].empty() && streams_[other].position() < s.position())
        return false;
    const TaskId t = plan_.issue_order[static_cast<std::size_t>(s.position())];
    const auto deps = graph_.dependencies(t), slots = reuse_.into(t);
    for (; s.edge < deps.size() + slots.size(); ++s.edge) {
      const TaskId on = s.edge < deps.size() ? deps[s.edge] : slots[s.edge - deps.size()];
      if (done_[on] == 0) return false;
    }
    return true;
  }

  bool start_ready() {
    bool any = false;
    for (const std::uint8_t set : used_) {
      if (!ready(set)) continue;
      any = true;
      Queue& s = streams_[set];
      const TaskId t = plan_.issue_order[static_cast<std::size_t>(s.position())];
      out_.start_us[t] = now_;
      s.running = {true, now_, prices_.of(graph_.tasks[t]), 1.0};
      if (s.running.remaining <= 0.0) finish(set);
    }
    if (any) set_rates();
    return any;
  }

  void finish(std::uint8_t set) {
    Queue& s = streams_[set];
    const TaskId t = plan_.issue_order[static_cast<std::size_t>(s.position())];
    out_.end_us[t] = now_;
    out_.total_us = std::max(out_.total_us, now_);
    done_[t] = 1;
    ++num_done_;
    s.running.active = false;
    s.edge = 0;
    if (s.position() == host_task_) {
      host_task_ = kNoId;
      next_issue_ = now_ + cost_.machine.issue_us;
    }
    ++s.head;
  }

  void set_rates() {
    int num_running = 0;
    for (const std::uint8_t set : used_) num_running += streams_[set].running.active ? 1 : 0;
    const double cores = cost_.machine.cores_per_rank;
    const double share = cores > 0.0 ? num_running / std::max(1.0, cores) : 1.0;
    for (const std::uint8_t set : used_) {
      Running& r = streams_[set].running;
      if (!r.active) continue;
      double slowdown = 1.0;
      for (const std::uint8_t other : used_)
        if (other != set && streams_[other].running.active) slowdown += pair_excess_[set][other];
      slowdown = std::max(slowdown, share);
      if (slowdown == r.slowdown) continue;  // no rounding where nothing changes
      r.remaining -= (now_ - r.anchor) / r.slowdown;
      r.anchor = now_;
      r.slowdown = slowdown;
    }
  }

  /// Issues all that the host has reached by now, up to a task that holds it.
  void issue_until(std::int32_t n) {
    while (host_task_ == kNoId && num_issued_ < n && next_issue_ <= now_) {
      const Task& task = graph_.tasks[plan_.issue_order[static_cast<std::size_t>(num_issued_)]];
      if (task.resources.has(Resource::kHost)) host_task_ = num_issued_;
      ++num_issued_;
      next_issue_ += cost_.machine.issue_us;
    }
  }

  void advance(std::int32_t n) {
    double next = host_task_ == kNoId && num_issued_ < n ? next_issue_ : kNever;
    for (const std::uint8_t set : used_)
      if (streams_[set].running.active) next = std::min(next, streams_[set].running.end());
    if (next == kNever) throw Error(ErrorCode::kInternal, "simulate: the plan's order breaks an edge of the graph");
    now_ = next;
    bool finished = false;
    for (const std::uint8_t set : used_)
      if (streams_[set].running.active && streams_[set].running.end() <= now_) {
        finish(set);
        finished = true;
      }
    if (finished) set_rates();
    issue_until(n);
  }

  const Graph& graph_;
  const Plan& plan_;
  const ReuseEdges& reuse_;
  const Prices prices_;
  const CostModel& cost_;
  Timeline out_;
  std::vector<char> done_;
  std::array<Queue, kNumStreams> streams_;
  std::vector<std::uint8_t> used_;  // the sets that occur
  std::array<std::array<double, kNumStreams>, kNumStreams> pair_excess_{};
  double now_ = 0.0, next_issue_ = 0.0;
  std::int32_t num_issued_ = 0, num_done_ = 0;
  std::int32_t host_task_ = kNoId;  // position of the task that holds the host
};

bool is_contended(const Machine& machine) {
  if (machine.cores_per_rank > 0.0) return true;
  for (const auto& row : machine.contention)
    for (const double factor : row)
      if (factor > 1.0) return true;
  return false;
}

/// The share of the step in which the rank computes.
double computing_share(const Graph& graph, const Timeline& timeline) {
  double busy = 0.0;  // tasks that compute run one after the other
  for (TaskId t = 0; t < graph.num_tasks(); ++t)
    if (graph.tasks[t].resources.has(Resource::kCompute)) busy += timeline.end_us[t] - timeline.start_us[t];
  return timeline.total_us > 0.0 ? std::min(1.0, busy / timeline.total_us) : 0.0;
}

}  // namespace

Timeline simulate(const Graph& graph, const Plan& plan, const SlotMap& slots, const CostModel& cost,
                  bool single_stream) {
  const ReuseEdges reuse(slots, graph.tasks.size());
  const auto run = [&](double computation) {
    const Prices prices{cost, computation};
    if (single_stream || !is_contended(cost.machine)) return simulate_alone(graph, plan, reuse, prices, single_stream);
    return ContendedRun(graph, plan, reuse, prices).run();
  };
  const double others = cost.machine.ranks_per_core - 1.0;
  if (!(others > 0.0)) return run(1.0);
  constexpr int kRounds = 3;  // towards the share that its own slow-down brings about; each halves the error or better
  double share = 0.5;
  for (int i = 0; i < kRounds; ++i) share = computing_share(graph, run(1.0 + others * share * share));
  return run(1.0 + others * share * share);
}

Timeline simulate_with_free_host(const Graph& graph, const Plan& plan, const SlotMap& slots, const CostModel& cost,
                                 bool single_stream) {
  Graph free = graph;  // its waits still last, and hold up what needs them
  for (Task& task : free.tasks)
    if (task.resources.has(Resource::kHost)) task.resources = {};
  CostModel at_once = cost;
  at_once.machine.issue_us = 0.0;
  return simulate(free, plan, slots, at_once, single_stream);
}

std::int64_t num_host_waits(const Graph& graph) {
  return std::count_if(graph.tasks.begin(), graph.tasks.end(),
                       [](const Task& task) { return task.resources.has(Resource::kHost); });
}

}  // namespace weft::scheduler
