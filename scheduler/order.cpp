#include "scheduler/order.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>

#include "scheduler/instance.h"
#include "scheduler/simulator.h"

namespace weft::scheduler {
namespace {

bool is_gradient(const Task& task) { return task.stage == Stage::kGradReduce; }

/// Where a chunk's task stands among those of its pass: ranks in turn, chunks in turn within a rank. Rows are put in
/// order before they are sent, which waits for nothing in the pass, and after they came back.
int pipeline_rank(const Task& task, bool waits) {
  switch (task.stage) {
    case Stage::kOrder:
    case Stage::kIOrder:
      return waits ? 3 : 0;
    case Stage::kDispatch:
    case Stage::kAllGather:
      return 1;
    default:
      return 2;  // expert, reduce-scatter, combine
  }
}

bool is_pipelined(const Task& task) {
  switch (task.stage) {
    case Stage::kOrder:
    case Stage::kIOrder:
    case Stage::kDispatch:
    case Stage::kAllGather:
    case Stage::kExpert:
    case Stage::kReduceScatter:
    case Stage::kCombine:
      return task.chunk != kNoId;
    default:
      return false;
  }
}

bool same_pass(const Task& a, const Task& b) {
  return a.layer == b.layer && a.micro_batch == b.micro_batch && a.sub_batch == b.sub_batch && a.phase == b.phase;
}

/// Appends tasks [begin, end): the ready one of the smallest (rank, chunk, task) goes next.
void append_by_rank(const Graph& graph, TaskId begin, TaskId end, std::vector<TaskId>& out) {
  std::vector<int> missing(static_cast<std::size_t>(end - begin), 0);
  std::vector<std::vector<TaskId>> users(missing.size());
  std::set<std::tuple<int, int, TaskId>> ready;
  const auto make_ready = [&](TaskId t, bool waits) {
    ready.emplace(pipeline_rank(graph.tasks[t], waits), graph.tasks[t].chunk, t);
  };
  for (TaskId t = begin; t < end; ++t) {
    for (const TaskId d : graph.dependencies(t))
      if (d >= begin) {
        ++missing[static_cast<std::size_t>(t - begin)];
        users[static_cast<std::size_t>(d - begin)].push_back(t);
      }
    if (missing[static_cast<std::size_t>(t - begin)] == 0) make_ready(t, false);
  }
  while (!ready.empty()) {
    const TaskId t = std::get<2>(*ready.begin());
    ready.erase(ready.begin());
    out.push_back(t);
    for (const TaskId user : users[static_cast<std::size_t>(t - begin)])
      if (--missing[static_cast<std::size_t>(user - begin)] == 0) make_ready(user, true);
  }
}

/// For each gradient task its place: the number of other tasks of `order` issued before it.
std::vector<TaskId> merged(const Graph& graph, const std::vector<TaskId>& order,
                           std::vector<std::pair<std::size_t, TaskId>> gradients) {
  std::stable_sort(gradients.begin(), gradients.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<TaskId> out;
  std::size_t next = 0, others = 0;
  for (const TaskId t : order) {
    if (is_gradient(graph.tasks[t])) continue;
    for (; next < gradients.size() && gradients[next].first <= others; ++next) out.push_back(gradients[next].second);
    out.push_back(t);
    ++others;
  }
  for (; next < gradients.size(); ++next) out.push_back(gradients[next].second);
  return out;
}

/// Tasks that are not gradient reductions, and where each stands among them.
struct Others {
  Others(const Graph& graph, const std::vector<TaskId>& order) : place(graph.tasks.size(), 0) {
    for (const TaskId t : order)
      if (!is_gradient(graph.tasks[t])) {
        place[static_cast<std::size_t>(t)] = tasks.size();
        tasks.push_back(t);
      }
    // What waits for reductions ends the step: reductions stand before the first of it.
    end = tasks.size();
    for (std::size_t i = 0; i < tasks.size(); ++i)
      for (const TaskId d : graph.dependencies(tasks[i]))
        if (is_gradient(graph.tasks[d])) end = std::min(end, i);
  }
  /// The first place where all that `t` depends on has been issued.
  [[nodiscard]] std::size_t earliest(const Graph& graph, TaskId t) const {
    std::size_t at = 0;
    for (const TaskId d : graph.dependencies(t))
      if (!is_gradient(graph.tasks[d])) at = std::max(at, place[static_cast<std::size_t>(d)] + 1);
    return at;
  }
  std::vector<TaskId> tasks;
  std::vector<std::size_t> place;  // [tasks of the graph]
  std::size_t end = 0;
};

/// The reductions of one layer.
struct Pending {
  double ready = 0.0, alpha = 0.0, transfer = 0.0, left = 1.0;
  std::size_t earliest = 0;
  std::uint8_t link = 0;
};

std::map<int, Pending> pending_reductions(const Graph& graph, const CostModel& cost, const Timeline& timeline,
                                          const StreamSets& sets, const Others& others) {
  std::map<int, Pending> pending;
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const Task& task = graph.tasks[t];
    if (!is_gradient(task) || task.layer == kNoId) continue;
    Pending& p = pending[task.layer];
    for (const TaskId d : graph.dependencies(t))
      if (!is_gradient(graph.tasks[d])) p.ready = std::max(p.ready, timeline.end_us[d]);
    p.earliest = std::max(p.earliest, others.earliest(graph, t));
    const double alpha = cost.constants(task).alpha_us * task.work.operations;
    p.alpha += alpha;
    p.transfer += cost.cost_us(task) - alpha;
    p.link |= sets[task.resources.bits()].bits();
  }
  return pending;
}

}  // namespace

std::vector<TaskId> emission_order(const Graph& graph) {
  std::vector<TaskId> order(graph.tasks.size());
  std::iota(order.begin(), order.end(), 0);
  return order;
}

Plan sequential_plan(const Graph& graph, const Shape& shape) { return {"sequential", shape, emission_order(graph)}; }

std::vector<TaskId> pipelined_order(const Graph& graph) {
  std::vector<TaskId> out;
  out.reserve(graph.tasks.size());
  for (TaskId begin = 0; begin < graph.num_tasks();) {
    TaskId end = begin + 1;
    if (is_pipelined(graph.tasks[begin]))
      while (end < graph.num_tasks() && is_pipelined(graph.tasks[end]) &&
             same_pass(graph.tasks[begin], graph.tasks[end]))
        ++end;
    append_by_rank(graph, begin, end, out);
    begin = end;
  }
  return out;
}

std::vector<TaskId> gradients_in_attention(const Graph& graph, const std::vector<TaskId>& order) {
  const Others others(graph, order);
  std::vector<std::pair<std::size_t, TaskId>> gradients;
  for (const TaskId t : order) {
    if (!is_gradient(graph.tasks[t])) continue;
    std::size_t at = others.earliest(graph, t);
    for (; at < others.end; ++at) {
      const Task& task = graph.tasks[others.tasks[at]];
      if (task.stage == Stage::kAttention && task.phase == Phase::kBackward) break;
    }
    gradients.emplace_back(at, t);
  }
  return merged(graph, order, std::move(gradients));
}

std::vector<TaskId> gradients_in_background(const Graph& graph, const Shape& shape, const CostModel& cost,
                                            const std::vector<TaskId>& order) {
  std::vector<std::pair<TaskId, TaskId>> fifo;  // everything else stays in order on its stream
  const StreamSets sets = stream_sets(shape);
  std::map<std::uint8_t, TaskId> last;
  std::vector<double> priority(graph.tasks.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    const Task& task = graph.tasks[order[i]];
    priority[order[i]] = static_cast<double>(order.size() - i);
    if (is_gradient(task)) {
      priority[order[i]] -= 2.0 * static_cast<double>(order.size());
      continue;
    }
    const auto [at, first] = last.try_emplace(sets[task.resources.bits()].bits(), order[i]);
    if (!first) {
      fifo.emplace_back(at->second, order[i]);
      at->second = order[i];
    }
  }
  Schedule schedule;
  ListScheduler().run(Instance(graph, shape, cost, fifo), priority, schedule);
  return schedule.order;
}

void issue_host_waits_late(const Graph& graph, std::vector<TaskId>& order) {
  const auto waits = [&](TaskId t) { return graph.tasks[static_cast<std::size_t>(t)].resources.has(Resource::kHost); };
  if (std::none_of(order.begin(), order.end(), waits)) return;
  std::vector<bool> issued(graph.tasks.size(), false);
  std::vector<TaskId> late;
  late.reserve(order.size());
  const std::function<void(TaskId)> issue = [&](TaskId t) {
    if (issued[static_cast<std::size_t>(t)]) return;
    issued[static_cast<std::size_t>(t)] = true;
    for (const TaskId d : graph.dependencies(t))
      if (waits(d)) issue(d);
    late.push_back(t);
  };
  for (const TaskId t : order)
    if (!waits(t)) issue(t);
  for (const TaskId t : order) issue(t);  // waits that nothing needs
  order = std::move(late);
}

GradientPartition partition_gradients(const Graph& graph, const Shape& shape, const CostModel& cost,
                                      const std::vector<TaskId>& order) {
  const Plan plan{"", shape, order};
  const SlotMap none{std::vector<std::int32_t>(graph.buffers.size(), kNoId), {}, {}};
  const Timeline timeline = simulate(graph, plan, none, cost, false);
  const StreamSets sets = stream_sets(shape);
  const Others others(graph, order);
  std::map<int, Pending> pending = pending_reductions(graph, cost, timeline, sets, others);
  GradientPartition out;
  out.shares.resize(shape.layers.size());
  out.before.resize(shape.layers.size());
  std::vector<int> coming;  // layers by when their gradients are there, the last first
  std::uint8_t links = 0;
  for (const auto& [layer, p] : pending) {
    coming.push_back(layer);
    links |= p.link;
  }
  std::sort(coming.begin(), coming.end(), [&](int a, int b) { return pending[a].earliest > pending[b].earliest; });
  std::set<int, std::greater<>> waiting;  // there, and not placed yet: in the order of the backward
  double idle_from = 0.0;
  for (std::size_t i = 0; i < others.end; ++i) {  // the idle time in front of each task of a gradient's link
    const TaskId next = others.tasks[i];
    const std::uint8_t link = sets[graph.tasks[next].resources.bits()].bits();
    for (; !coming.empty() && pending[coming.back()].earliest <= i; coming.pop_back()) waiting.insert(coming.back());
    for (auto layer = waiting.begin(); layer != waiting.end();) {
      Pending& p = pending[*layer];
      const double from = std::max(idle_from, p.ready), room = timeline.start_us[next] - from - p.alpha;
      if ((p.link & link) != 0 && room > 0.02 * p.transfer) {
        const double share = std::min(p.left, room / p.transfer);
        out.shares[static_cast<std::size_t>(*layer)].push_back(share);
        out.before[static_cast<std::size_t>(*layer)].push_back(next);
        p.left = p.left - share < 1e-6 ? 0.0 : p.left - share;
        idle_from = from + p.alpha + share * p.transfer;
      }
      layer = p.left > 0.0 ? std::next(layer) : waiting.erase(layer);
    }
    if ((links & link) != 0) idle_from = std::max(idle_from, timeline.end_us[next]);
  }
  for (const auto& [layer, p] : pending)
    if (p.left > 0.0) {
      out.shares[static_cast<std::size_t>(layer)].push_back(p.left);
      out.before[static_cast<std::size_t>(layer)].push_back(kNoId);
    }
  return out;
}

std::vector<TaskId> insert_gradients(const Graph& graph, const std::vector<TaskId>& order,
                                     const GradientPartition& partition) {
  std::vector<TaskId> all = order;  // tasks of the new graph: those behind the reductions have moved
  std::erase_if(all, [&](TaskId t) { return t >= graph.num_tasks(); });
  TaskId first_gradient = graph.num_tasks();
  for (TaskId t = graph.num_tasks(); t-- > 0;)
    if (is_gradient(graph.tasks[t])) first_gradient = t;
  std::erase_if(all, [&](TaskId t) { return t >= first_gradient; });
  for (TaskId t = first_gradient; t < graph.num_tasks(); ++t) all.push_back(t);
  const Others others(graph, all);
  std::vector<std::pair<std::size_t, TaskId>> gradients;
  for (TaskId t = first_gradient; t < graph.num_tasks(); ++t) {
    const Task& task = graph.tasks[t];
    if (!is_gradient(task)) continue;
    std::size_t at = others.end;
    if (task.layer != kNoId) {
      const auto& before = partition.before[static_cast<std::size_t>(task.layer)];
      const auto piece = static_cast<std::size_t>(std::max<int>(task.chunk, 0));
      if (piece < before.size() && before[piece] != kNoId) at = others.place[static_cast<std::size_t>(before[piece])];
    }
    gradients.emplace_back(std::max(at, others.earliest(graph, t)), t);
  }
  return merged(graph, all, std::move(gradients));
}

}  // namespace weft::scheduler
