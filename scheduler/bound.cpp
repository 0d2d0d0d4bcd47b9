#include "scheduler/bound.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <queue>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "scheduler/instance.h"

namespace weft::scheduler {
namespace {

/// All pieces of one stage of one layer, direction and micro-batch.
using OperationKey = std::tuple<Stage, Phase, std::string_view, int, int>;

OperationKey key_of(const TaskSpec& t) { return {t.stage, t.phase, t.label, t.layer, t.micro_batch}; }

struct Operation {
  double head = std::numeric_limits<double>::infinity();
  double tail = std::numeric_limits<double>::infinity();  // after the operation
  double load = 0.0;
  std::uint8_t resources = 0;
};
using Operations = std::map<OperationKey, Operation>;

Shape coarsest(const ShapeSpace& space, bool defer) {
  Shape shape = space.base;
  shape.sub_batches.clear();
  for (LayerShape& layer : shape.layers) {
    layer.forward_chunks = layer.backward_chunks = 1;
    layer.weight_grad_pieces = defer && space.has_weight_grads ? 1 : 0;
    layer.gradient_shares.clear();
  }
  return shape;
}

/// The least that a task of the coarsest graph leaves of itself on one token's way through the step, when everything is
/// cut as finely as the space allows: one start-up, and its smallest piece's share of the amount.
double least_cost(const Task& task, const ShapeSpace& space, const CostModel& cost) {
  const bool backward = task.phase == Phase::kBackward;
  double share = 1.0;
  if (task.stage == Stage::kGradReduce)
    share = 1.0 / space.max_gradient_slices;
  else if (task.micro_batch != kNoId)
    share = space.min_sub_batch_share;
  if (task.chunk != kNoId && task.stage != Stage::kGradReduce)
    share *= space.min_chunk_share / (backward ? space.max_backward_chunks : space.max_forward_chunks);
  TaskSpec piece = task;
  piece.work.amount *= share;
  piece.work.operations = std::min(1.0, piece.work.operations);
  return std::min(cost.cost_us(task), cost.cost_us(piece));
}

void add_loads(const Graph& graph, const CostModel& cost, Operations& operations) {
  for (const Task& task : graph.tasks) {
    Operation& o = operations[key_of(task)];
    o.load += cost.cost_us(task);
    o.resources = task.resources.bits();
  }
}

/// Loads of the expert operations by (phase, layer, micro-batch).
using ExpertLoads = std::map<std::tuple<Phase, int, int>, double>;

ExpertLoads expert_loads(const Operations& operations) {
  ExpertLoads out;
  for (const auto& [key, o] : operations)
    if (std::get<0>(key) == Stage::kExpert) out[{std::get<1>(key), std::get<3>(key), std::get<4>(key)}] += o.load;
  return out;
}

/// Expert and dW together cost no more than the cheaper of fused and deferred: what a fused plan saves is taken off dW.
void spare_fused(const Graph& fused, const CostModel& cost, Operations& operations) {
  Operations whole;
  add_loads(fused, cost, whole);
  ExpertLoads together = expert_loads(whole), deferred = expert_loads(operations);
  for (auto& [key, dw] : operations) {
    if (std::get<0>(key) != Stage::kExpertDw) continue;
    const std::tuple place{std::get<1>(key), std::get<3>(key), std::get<4>(key)};
    dw.load = std::max(0.0, std::min(dw.load, together[place] - deferred[place]));
  }
}

double take_heads_and_tails(const Graph& graph, const Instance& instance, Operations& operations) {
  const std::vector<double> head = heads(instance), tail = tails(instance);
  double longest = 0.0;
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    longest = std::max(longest, head[t] + tail[t]);
    const auto at = operations.find(key_of(graph.tasks[t]));
    if (at == operations.end()) continue;
    at->second.head = std::min(at->second.head, head[t]);
    at->second.tail = std::min(at->second.tail, tail[t] - instance.duration[t]);
  }
  return longest;
}

}  // namespace

double one_machine_bound(std::span<const BoundJob> jobs) {
  std::vector<BoundJob> by_head(jobs.begin(), jobs.end());
  std::sort(by_head.begin(), by_head.end(), [](const BoundJob& a, const BoundJob& b) { return a.head < b.head; });
  std::priority_queue<std::pair<double, double>> ready;  // tail, what is left
  double now = 0.0, bound = 0.0;
  std::size_t next = 0;
  while (next < by_head.size() || !ready.empty()) {
    if (ready.empty()) now = std::max(now, by_head[next].head);
    for (; next < by_head.size() && by_head[next].head <= now; ++next)
      ready.emplace(by_head[next].tail, by_head[next].load);
    const auto [tail, left] = ready.top();
    ready.pop();
    const double until = next < by_head.size() ? std::min(now + left, by_head[next].head) : now + left;
    if (until < now + left)
      ready.emplace(tail, left - (until - now));
    else
      bound = std::max(bound, until + tail);
    now = until;
  }
  return bound;
}

double lower_bound_us(const Emitter& emitter, const CostModel& cost) {
  const ShapeSpace& space = emitter.space();
  Operations operations;
  add_loads(emitter.emit(coarsest(space, true)), cost, operations);
  if (space.has_weight_grads) spare_fused(emitter.emit(coarsest(space, false)), cost, operations);
  const Shape shape = coarsest(space, true);
  const Graph graph = emitter.emit(shape);
  Instance instance(graph, shape, cost);
  for (TaskId t = 0; t < graph.num_tasks(); ++t) instance.duration[t] = least_cost(graph.tasks[t], space, cost);
  double bound = take_heads_and_tails(graph, instance, operations);
  for (const Resource resource : {Resource::kCompute, Resource::kIntra, Resource::kInter}) {
    std::vector<BoundJob> jobs;
    for (const auto& [key, o] : operations) {
      const bool uses = (o.resources >> static_cast<unsigned>(resource) & 1U) != 0;
      const bool placed = o.head < std::numeric_limits<double>::infinity();
      if (uses && o.load > 0.0) jobs.push_back({placed ? o.head : 0.0, o.load, placed ? o.tail : 0.0});
    }
    bound = std::max(bound, one_machine_bound(jobs));
  }
  return bound;
}

}  // namespace weft::scheduler
