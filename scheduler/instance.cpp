#include "scheduler/instance.h"

#include <algorithm>
#include <limits>

namespace weft::scheduler {
namespace {

/// The other direction of a list of neighbours.
void transpose(const std::vector<std::int32_t>& first, const std::vector<TaskId>& to,
               std::vector<std::int32_t>& first_out, std::vector<TaskId>& out) {
  const std::size_t n = first.size() - 1;
  first_out.assign(n + 1, 0);
  out.resize(to.size());
  for (const TaskId t : to) ++first_out[static_cast<std::size_t>(t) + 1];
  for (std::size_t t = 0; t < n; ++t) first_out[t + 1] += first_out[t];
  std::vector<std::int32_t> at(first_out.begin(), first_out.end() - 1);
  for (std::size_t t = 0; t < n; ++t)
    for (std::int32_t i = first[t]; i < first[t + 1]; ++i)
      out[static_cast<std::size_t>(at[static_cast<std::size_t>(to[static_cast<std::size_t>(i)])]++)] =
          static_cast<TaskId>(t);
}

/// Kahn's algorithm.
std::vector<TaskId> sorted(const Instance& in) {
  std::vector<TaskId> order;
  std::vector<std::int32_t> missing(in.duration.size());
  for (TaskId t = 0; t < in.size(); ++t) {
    missing[t] = static_cast<std::int32_t>(in.predecessors(t).size());
    if (missing[t] == 0) order.push_back(t);
  }
  for (std::size_t i = 0; i < order.size(); ++i)
    for (const TaskId s : in.successors(order[i]))
      if (--missing[s] == 0) order.push_back(s);
  return order;
}

}  // namespace

Instance::Instance(const Graph& graph, const Shape& shape, const CostModel& cost,
                   std::span<const std::pair<TaskId, TaskId>> extra) {
  const auto n = static_cast<std::size_t>(graph.num_tasks());
  const StreamSets sets = stream_sets(shape);
  duration.reserve(n);
  occupied.reserve(n);
  first_pred.reserve(n + 1);
  pred.reserve(graph.deps.size());
  topological.resize(n);
  std::vector<std::vector<TaskId>> more(extra.empty() ? 0 : n);
  for (const auto& [from, to] : extra) more[static_cast<std::size_t>(to)].push_back(from);
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const Task& task = graph.tasks[t];
    duration.push_back(cost.cost_us(task));
    occupied.push_back(duration.back() > 0.0 ? sets[task.resources.bits()].bits() : std::uint8_t{0});
    first_pred.push_back(static_cast<std::int32_t>(pred.size()));
    const auto deps = graph.dependencies(t);
    pred.insert(pred.end(), deps.begin(), deps.end());
    if (!more.empty()) pred.insert(pred.end(), more[t].begin(), more[t].end());
    topological[static_cast<std::size_t>(t)] = t;  // the order of emission is a valid one
  }
  first_pred.push_back(static_cast<std::int32_t>(pred.size()));
  transpose(first_pred, pred, first_succ, succ);
  if (!extra.empty()) topological = sorted(*this);
}

Instance Instance::reversed() const {
  Instance out;
  out.duration = duration;
  out.occupied = occupied;
  out.first_pred = first_succ;
  out.pred = succ;
  out.first_succ = first_pred;
  out.succ = pred;
  out.topological.assign(topological.rbegin(), topological.rend());
  return out;
}

std::vector<double> tails(const Instance& in) {
  std::vector<double> tail(in.duration.size());
  for (auto t = in.topological.rbegin(); t != in.topological.rend(); ++t) {
    double after = 0.0;
    for (const TaskId s : in.successors(*t)) after = std::max(after, tail[s]);
    tail[*t] = after + in.duration[*t];
  }
  return tail;
}

std::vector<double> heads(const Instance& in) {
  std::vector<double> head(in.duration.size());
  for (const TaskId t : in.topological)
    for (const TaskId p : in.predecessors(t)) head[t] = std::max(head[t], head[p] + in.duration[p]);
  return head;
}

/// Puts a task whose predecessors are done into its lane. Free tasks run at once, and may release others.
void ListScheduler::make_ready(const Instance& in, TaskId first, double now, Schedule& out) {
  stack_.push_back(first);
  while (!stack_.empty()) {
    const TaskId t = stack_.back();
    stack_.pop_back();
    if (in.occupied[t] != 0) {
      auto& heap = lanes_[static_cast<std::size_t>(lane_of_bits_[in.occupied[t]])].heap;
      heap.emplace_back((*priority_)[t], -t);
      std::push_heap(heap.begin(), heap.end());
      continue;
    }
    out.start[t] = now;
    out.order.push_back(t);
    for (const TaskId s : in.successors(t))
      if (--missing_[s] == 0) stack_.push_back(s);
  }
}

/// A lane for each set of resources that occurs; returns their number.
std::size_t ListScheduler::make_lanes(const Instance& in) {
  lanes_.resize(std::max<std::size_t>(lanes_.size(), 1));
  std::size_t num_lanes = 0;
  lane_of_bits_.fill(-1);
  for (const std::uint8_t bits : in.occupied) {
    if (bits == 0 || lane_of_bits_[bits] >= 0) continue;
    lane_of_bits_[bits] = static_cast<std::int8_t>(num_lanes);
    if (num_lanes == lanes_.size()) lanes_.emplace_back();
    lanes_[num_lanes].heap.clear();
    lanes_[num_lanes++].bits = bits;
  }
  return num_lanes;
}

void ListScheduler::run(const Instance& in, const std::vector<double>& priority, Schedule& out) {
  const auto n = static_cast<std::size_t>(in.size());
  priority_ = &priority;
  const std::size_t num_lanes = make_lanes(in);
  out.start.assign(n, 0.0);
  out.order.clear();
  missing_.resize(n);
  for (std::size_t t = 0; t < n; ++t) missing_[t] = in.first_pred[t + 1] - in.first_pred[t];
  double now = 0.0;
  for (std::size_t t = 0; t < n; ++t)
    if (in.first_pred[t + 1] == in.first_pred[t]) make_ready(in, static_cast<TaskId>(t), now, out);

  struct Running {
    double end;
    TaskId task;
  };
  std::array<Running, kNumResources> running{};  // tasks at once exclude each other: at most one per resource
  int num_running = 0;
  unsigned busy = 0;
  while (out.order.size() < n) {
    for (;;) {  // start whatever may start, the most urgent first
      Lane* best = nullptr;
      for (std::size_t l = 0; l < num_lanes; ++l) {
        Lane& lane = lanes_[l];
        if (!lane.heap.empty() && (busy & lane.bits) == 0 &&
            (best == nullptr || lane.heap.front() > best->heap.front()))
          best = &lane;
      }
      if (best == nullptr) break;
      std::pop_heap(best->heap.begin(), best->heap.end());
      const TaskId t = -best->heap.back().second;
      best->heap.pop_back();
      busy |= best->bits;
      running[static_cast<std::size_t>(num_running++)] = {now + in.duration[t], t};
      out.start[t] = now;
      out.order.push_back(t);
    }
    if (num_running == 0) break;  // a cycle, which no graph of ours has
    now = std::numeric_limits<double>::infinity();
    for (int i = 0; i < num_running; ++i) now = std::min(now, running[static_cast<std::size_t>(i)].end);
    for (int i = 0; i < num_running;) {
      const Running done = running[static_cast<std::size_t>(i)];
      if (done.end > now) {
        ++i;
        continue;
      }
      running[static_cast<std::size_t>(i)] = running[static_cast<std::size_t>(--num_running)];
      busy &= ~static_cast<unsigned>(in.occupied[done.task]);
      for (const TaskId s : in.successors(done.task))
        if (--missing_[s] == 0) make_ready(in, s, now, out);
    }
  }
  while (num_running > 0) now = std::max(now, running[static_cast<std::size_t>(--num_running)].end);
  out.makespan = now;
}

int justify(ListScheduler& lists, const Instance& forward, const Instance& backward, int rounds, Schedule& schedule) {
  Schedule best = schedule, right;
  std::vector<double> priority(schedule.start.size());
  int made = 0, stalled = 0;
  for (int round = 0; round < rounds && stalled < 2; ++round) {
    for (std::size_t t = 0; t < priority.size(); ++t) priority[t] = schedule.start[t] + forward.duration[t];
    lists.run(backward, priority, right);
    for (std::size_t t = 0; t < priority.size(); ++t) priority[t] = right.start[t] + forward.duration[t];
    lists.run(forward, priority, schedule);
    made += 2;
    if (schedule.makespan < best.makespan - 1e-9 * best.makespan) {
      best = schedule;
      stalled = 0;
    } else {
      ++stalled;
    }
  }
  schedule = std::move(best);
  return made;
}

}  // namespace weft::scheduler
