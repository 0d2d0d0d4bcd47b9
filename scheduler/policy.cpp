#include "scheduler/policy.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "core/error.h"
#include "scheduler/instance.h"
#include "scheduler/order.h"

namespace weft::scheduler {
namespace {

constexpr std::array<std::string_view, kNumPolicies> kNames{"sequential",   "tutel", "tutel_improved", "pipemoe_lina",
                                                            "fsmoe_no_iio", "fsmoe", "flowmoe",        "weft"};
constexpr std::array<std::uint8_t, kNumResources> kOneStream{0, 0, 0, 0}, kOneCommStream{0, 1, 1, 2};

/// Plans of one policy under comparison.
class Best {
 public:
  Best(PolicyKind policy, const CostModel& cost, const PolicyOptions& options)
      : policy_(policy), cost_(cost), limit_(options.search.memory_limit_bytes) {}

  void offer(const Graph& graph, const Shape& shape, std::vector<TaskId> order) {
    issue_host_waits_late(graph, order);
    Plan plan{std::string(to_string(policy_)), shape, std::move(order)};
    const PlanPrice plan_price = settle_slots(graph, plan, cost_, limit_);
    ++num_candidates_;
    smallest_ = std::min(smallest_, plan_price.memory_bytes);
    if (limit_ > 0 && plan_price.memory_bytes > limit_) return;
    if (!best_ || plan_price.total_us < best_->price.total_us) best_ = PolicyPlan{std::move(plan), plan_price, 1};
  }
  [[nodiscard]] const Shape& shape() {
    require_one();
    return best_->plan.shape;
  }
  [[nodiscard]] PolicyPlan take() {
    require_one();
    best_->num_candidates = num_candidates_;
    return std::move(*best_);
  }

 private:
  void require_one() const {
    if (!best_)
      throw Error(ErrorCode::kInvalidArgument,
                  str("no plan of policy ", to_string(policy_), " fits the memory limit of ", limit_,
                      " bytes: the smallest needs ", smallest_),
                  "raise schedule.memory_limit_mib, use a smaller train.micro_batch, or recompute (train.recompute)");
  }
  PolicyKind policy_;
  const CostModel& cost_;
  std::int64_t limit_, num_candidates_ = 0;
  std::int64_t smallest_ = std::numeric_limits<std::int64_t>::max();
  std::optional<PolicyPlan> best_;
};

/// One micro-batch after the other, nothing cut, dW with dX.
Shape plain_shape(const ShapeSpace& space) {
  Shape shape = space.base;
  shape.sub_batches.clear();
  shape.micro_batches_in_flight = 1;
  for (LayerShape& layer : shape.layers) {
    layer.forward_chunks = layer.backward_chunks = 1;
    layer.weight_grad_pieces = 0;
    layer.gradient_shares.clear();
  }
  return shape;
}

std::vector<int> degrees_within(const std::vector<int>& degrees, int most) {
  std::vector<int> out;
  for (const int r : degrees)
    if (r <= most) out.push_back(r);
  if (out.empty()) out.push_back(1);
  return out;
}

/// Every degree, the same in all layers and both directions.
template <class F>
void for_each_degree(const ShapeSpace& space, const PolicyOptions& options, Shape shape, const F& visit) {
  for (const int forward : degrees_within(options.degrees, space.max_forward_chunks))
    for (const int backward : degrees_within(options.degrees, space.max_backward_chunks)) {
      const bool one_direction = space.max_forward_chunks == 1 || space.max_backward_chunks == 1;
      if (!one_direction && forward != backward) continue;
      for (LayerShape& layer : shape.layers) {
        layer.forward_chunks = forward;
        layer.backward_chunks = backward;
      }
      visit(shape);
    }
}

PolicyPlan sequential(const Emitter& emitter, const CostModel& cost, const PolicyOptions& options) {
  Best best(PolicyKind::kSequential, cost, options);
  Shape shape = plain_shape(emitter.space());
  shape.stream_of_resource = kOneStream;
  const Graph graph = emitter.emit(shape);
  best.offer(graph, shape, emission_order(graph));
  return best.take();
}

/// Tutel, its improved form, and PipeMoE with Lina's gradients.
PolicyPlan pipelined(PolicyKind policy, const Emitter& emitter, const CostModel& cost, const PolicyOptions& options) {
  Best best(policy, cost, options);
  Shape plain = plain_shape(emitter.space());
  plain.stream_of_resource = kOneCommStream;
  if (policy == PolicyKind::kPipeMoeLina)
    for (std::size_t l = 0; l < plain.layers.size(); ++l) {
      const double pieces = std::ceil(emitter.gradient_bytes(static_cast<int>(l)) / options.lina_piece_bytes);
      const int slices = std::clamp(static_cast<int>(pieces), 1, emitter.space().max_gradient_slices);
      if (slices > 1) plain.layers[l].gradient_shares.assign(static_cast<std::size_t>(slices), 1.0 / slices);
    }
  for_each_degree(emitter.space(), options, plain, [&](const Shape& shape) {
    const Graph graph = emitter.emit(shape);
    std::vector<TaskId> order = pipelined_order(graph);
    if (policy == PolicyKind::kTutelImproved) order = gradients_in_attention(graph, order);
    if (policy == PolicyKind::kPipeMoeLina) order = gradients_in_background(graph, shape, cost, order);
    best.offer(graph, shape, std::move(order));
  });
  return best.take();
}

/// A degree per direction, each chosen on its own as FSMoE does: the two directions of a step do not overlap.
PolicyPlan fsmoe(PolicyKind policy, const Emitter& emitter, const CostModel& cost, const PolicyOptions& options) {
  Best best(policy, cost, options);
  const ShapeSpace& space = emitter.space();
  Shape plain = plain_shape(space);
  if (policy == PolicyKind::kFsMoeNoIio) plain.stream_of_resource = kOneCommStream;
  const auto offer = [&](int forward, int backward, bool partitioned) {
    Shape shape = plain;
    for (LayerShape& layer : shape.layers) {
      layer.forward_chunks = forward;
      layer.backward_chunks = backward;
    }
    const Graph graph = emitter.emit(shape);
    const std::vector<TaskId> order = pipelined_order(graph);
    if (!partitioned) return best.offer(graph, shape, order);
    const GradientPartition partition = partition_gradients(graph, shape, cost, order);
    for (std::size_t l = 0; l < shape.layers.size(); ++l) shape.layers[l].gradient_shares = partition.shares[l];
    const Graph cut = emitter.emit(shape);
    best.offer(cut, shape, insert_gradients(cut, order, partition));
  };
  const std::vector<int> forwards = degrees_within(options.degrees, space.max_forward_chunks);
  const std::vector<int> backwards = degrees_within(options.degrees, space.max_backward_chunks);
  for (const int forward : forwards) offer(forward, backwards.front(), false);
  const int forward = best.shape().layers.front().forward_chunks;
  for (const int backward : backwards) {
    if (backward != backwards.front()) offer(forward, backward, false);
    if (space.max_gradient_slices > 1) offer(forward, backward, true);
  }
  return best.take();
}

PolicyPlan flowmoe(const Emitter& emitter, const CostModel& cost, const PolicyOptions& options) {
  Best best(PolicyKind::kFlowMoe, cost, options);
  const ShapeSpace& space = emitter.space();
  ListScheduler lists;
  // a single layer has no sub-batches: there, its chunks are what is pipelined
  const int most =
      space.max_sub_batches > 1 ? space.max_sub_batches : std::max(space.max_forward_chunks, space.max_backward_chunks);
  for (const int pieces : degrees_within(options.degrees, most))
    for (const int slices : {1, 2, 4}) {
      if (slices > space.max_gradient_slices) continue;
      Shape shape = plain_shape(space);
      shape.stream_of_resource = kOneCommStream;
      if (space.max_sub_batches > 1) shape.sub_batches = {pieces};
      for (LayerShape& layer : shape.layers) {
        if (space.max_sub_batches == 1) {
          layer.forward_chunks = std::min(pieces, space.max_forward_chunks);
          layer.backward_chunks = std::min(pieces, space.max_backward_chunks);
        }
        if (slices > 1) layer.gradient_shares.assign(static_cast<std::size_t>(slices), 1.0 / slices);
      }
      const Graph graph = emitter.emit(shape);
      const Instance instance(graph, shape, cost);
      std::vector<double> priority = tails(instance);
      const double low = 2.0 * *std::max_element(priority.begin(), priority.end());
      for (TaskId t = 0; t < graph.num_tasks(); ++t)
        if (graph.tasks[t].stage == Stage::kGradReduce) priority[t] -= low;
      Schedule schedule;
      lists.run(instance, priority, schedule);
      best.offer(graph, shape, std::move(schedule.order));
    }
  return best.take();
}

PolicyPlan weft(const Emitter& emitter, const CostModel& cost, const PolicyOptions& options,
                const std::vector<Plan>& incumbents) {
  SearchResult found = search_plan(emitter, cost, incumbents, options.search);
  return {std::move(found.plan), found.price, found.num_candidates};
}

constexpr PolicyKind kOthers[] = {PolicyKind::kSequential,  PolicyKind::kTutel,      PolicyKind::kTutelImproved,
                                  PolicyKind::kPipeMoeLina, PolicyKind::kFsMoeNoIio, PolicyKind::kFsMoe,
                                  PolicyKind::kFlowMoe};

PolicyPlan make_other_plan(PolicyKind policy, const Emitter& emitter, const CostModel& cost,
                           const PolicyOptions& options) {
  switch (policy) {
    case PolicyKind::kSequential:
      return sequential(emitter, cost, options);
    case PolicyKind::kTutel:
    case PolicyKind::kTutelImproved:
    case PolicyKind::kPipeMoeLina:
      return pipelined(policy, emitter, cost, options);
    case PolicyKind::kFsMoeNoIio:
    case PolicyKind::kFsMoe:
      return fsmoe(policy, emitter, cost, options);
    case PolicyKind::kFlowMoe:
      return flowmoe(emitter, cost, options);
    case PolicyKind::kWeft:
      break;
  }
  throw Error(ErrorCode::kInternal, "make_other_plan: weft is not one of the others");
}

}  // namespace

std::string_view to_string(PolicyKind policy) noexcept { return kNames[static_cast<std::size_t>(policy)]; }

PolicyPlan make_plan(PolicyKind policy, const Emitter& emitter, const CostModel& cost, const PolicyOptions& options) {
  if (policy != PolicyKind::kWeft) return make_other_plan(policy, emitter, cost, options);
  return std::move(make_all_plans(emitter, cost, options).back());
}

std::vector<PolicyPlan> make_all_plans(const Emitter& emitter, const CostModel& cost, const PolicyOptions& options) {
  std::vector<PolicyPlan> out;
  std::vector<Plan> incumbents;
  for (const PolicyKind policy : kOthers) {
    try {
      out.push_back(make_other_plan(policy, emitter, cost, options));
      incumbents.push_back(out.back().plan);
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kInvalidArgument) throw;
      out.push_back({{std::string(to_string(policy)), {}, {}}, {std::numeric_limits<double>::infinity(), 0}, 0});
    }
  }
  out.push_back(weft(emitter, cost, options, incumbents));
  return out;
}

}  // namespace weft::scheduler
