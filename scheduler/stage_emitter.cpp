#include "scheduler/stage_emitter.h"

#include <algorithm>
#include <initializer_list>
#include <span>
#include <utility>
#include <vector>

#include "core/error.h"

namespace weft::scheduler {
namespace {

constexpr double kMs = 1e3;  // microseconds

/// Everything that one emission shares.
class StepEmission {
 public:
  StepEmission(const StageTable& table, int layers, int micro_batches, const Shape& shape)
      : table_(table), layers_(layers), micro_batches_(micro_batches), shape_(shape), attention_done_(layers) {}

  Graph run() {
    for (int m = 0; m < micro_batches_; ++m)
      for (int s = 0; s < sub_batches_of(shape_, m); ++s) emit_sub_batch(m, s);
    for (int l = layers_; l-- > 0;) emit_grad_reduce(l);
    Graph graph = builder_.take();
    limit_in_flight(graph, shape_.micro_batches_in_flight);
    return graph;
  }

 private:
  struct Place {
    Phase phase;
    int layer, micro_batch, sub_batch;
  };
  /// A stage's piece: `share` of `time_ms`, or half of that piece (dX, dW).
  struct Piece {
    Stage stage;
    WorkKind kind;
    double time_ms, alpha_ms, share;
    double part = 1.0;
  };

  TaskId add(const Place& place, const Piece& piece, int chunk, std::initializer_list<TaskId> after) {
    return add(place, piece, chunk, std::span<const TaskId>(after.begin(), after.size()));
  }
  TaskId add(const Place& place, const Piece& piece, int chunk, std::span<const TaskId> after) {
    TaskSpec spec;
    spec.stage = piece.stage;
    spec.phase = place.phase;
    spec.layer = static_cast<std::int16_t>(place.layer);
    spec.micro_batch = static_cast<std::int16_t>(place.micro_batch);
    spec.sub_batch = static_cast<std::int16_t>(place.sub_batch);
    spec.chunk = static_cast<std::int16_t>(chunk);
    const bool inter = piece.kind == WorkKind::kAllToAll || piece.kind == WorkKind::kAllReduce;
    spec.resources = {!is_collective(piece.kind) ? Resource::kCompute : inter ? Resource::kInter : Resource::kIntra};
    spec.work = {piece.kind, piece.part * kMs * std::max(0.0, piece.time_ms - piece.alpha_ms) * piece.share,
                 piece.part};
    return builder_.add_task_after(spec, after);
  }

  [[nodiscard]] Piece compute(Stage stage, double ms, double share) const {
    return {stage, WorkKind::kMemory, ms, 0.0, share};
  }
  [[nodiscard]] Piece half_all_to_all(Stage stage, const StageTimes& t, double share) const {
    return {stage, WorkKind::kAllToAll, t.all_to_all / 2, table_.alpha_all_to_all, share};
  }
  [[nodiscard]] Piece gather(Stage stage, const StageTimes& t, double of, double share) const {
    return {stage, WorkKind::kAllGather, t.all_gather * of, table_.alpha_all_gather, share};
  }
  [[nodiscard]] Piece scatter(Stage stage, const StageTimes& t, double of, double share) const {
    return {stage, WorkKind::kReduceScatter, t.reduce_scatter * of, table_.alpha_reduce_scatter, share};
  }

  void emit_sub_batch(int m, int s) {
    std::vector<TaskId> ends;
    for (int l = 0; l < layers_; ++l) ends = emit_forward({Phase::kForward, l, m, s}, ends);
    for (int l = layers_; l-- > 0;) ends.assign(1, emit_backward({Phase::kBackward, l, m, s}, ends));
  }

  /// Returns the block's last tasks: the i-orders of its chunks.
  std::vector<TaskId> emit_forward(const Place& at, const std::vector<TaskId>& after) {
    const StageTimes& t = table_.forward;
    const double x = 1.0 / sub_batches_of(shape_, at.micro_batch), esp = table_.expert_shard_share;
    const int r = shape_.layers[static_cast<std::size_t>(at.layer)].forward_chunks;
    const double xc = x / r;
    TaskId a = add(at, gather(Stage::kMpAllGather, t, 1.0 - esp, x), kNoId, after);
    a = add(at, compute(Stage::kAttention, t.attention, x), kNoId, {a});
    a = add(at, scatter(Stage::kMpReduceScatter, t, 1.0 - esp, x), kNoId, {a});
    const TaskId gate = add(at, compute(Stage::kGate, t.routing + t.order / 2, x), kNoId, {a});
    std::vector<TaskId> out;
    for (int c = 0; c < r; ++c) {
      TaskId b = add(at, half_all_to_all(Stage::kDispatch, t, xc), c, {gate});
      b = add(at, gather(Stage::kAllGather, t, esp, xc), c, {b});
      b = add(at, {Stage::kExpert, WorkKind::kGroupedGemm, t.expert, table_.alpha_expert, xc}, c, {b});
      b = add(at, scatter(Stage::kReduceScatter, t, esp, xc), c, {b});
      b = add(at, half_all_to_all(Stage::kCombine, t, xc), c, {b});
      out.push_back(add(at, compute(Stage::kIOrder, t.order / 2, xc), c, {b}));
    }
    return out;
  }

  TaskId emit_backward(const Place& at, const std::vector<TaskId>& after) {
    const StageTimes& t = table_.backward;
    const LayerShape& layer = shape_.layers[static_cast<std::size_t>(at.layer)];
    const double x = 1.0 / sub_batches_of(shape_, at.micro_batch), esp = table_.expert_shard_share;
    const int r = layer.backward_chunks;
    const double xc = x / r, part = layer.weight_grad_pieces > 0 ? 0.5 : 1.0;
    std::vector<TaskId> combined, gathered;
    for (int c = 0; c < r; ++c) {
      TaskId b = add(at, compute(Stage::kIOrder, t.order / 2, xc), c, after);
      b = add(at, half_all_to_all(Stage::kDispatch, t, xc), c, {b});
      b = add(at, gather(Stage::kAllGather, t, esp, xc), c, {b});
      gathered.push_back(b);
      b = add(at, {Stage::kExpert, WorkKind::kGroupedGemm, t.expert, table_.alpha_expert, xc, part}, c, {b});
      b = add(at, scatter(Stage::kReduceScatter, t, esp, xc), c, {b});
      combined.push_back(add(at, half_all_to_all(Stage::kCombine, t, xc), c, {b}));
    }
    TaskId a = add(at, compute(Stage::kGate, t.routing + t.order / 2, x), kNoId, combined);
    a = add(at, gather(Stage::kMpAllGather, t, 1.0 - esp, x), kNoId, {a});
    a = add(at, compute(Stage::kAttention, t.attention, x), kNoId, {a});
    attention_done_[static_cast<std::size_t>(at.layer)].push_back(a);
    a = add(at, scatter(Stage::kMpReduceScatter, t, 1.0 - esp, x), kNoId, {a});
    const std::vector<int> cuts = weight_grad_cuts(r, layer.weight_grad_pieces);
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const auto first = static_cast<std::size_t>(cuts[i]), count = static_cast<std::size_t>(cuts[i + 1] - cuts[i]);
      const Piece piece{Stage::kExpertDw,    WorkKind::kGroupedGemm,          t.expert,
                        table_.alpha_expert, xc * static_cast<double>(count), 0.5};
      add(at, piece, static_cast<int>(i), std::span<const TaskId>(gathered).subspan(first, count));
    }
    return a;
  }

  void emit_grad_reduce(int layer) {
    if (table_.backward.all_reduce <= 0.0) return;
    const std::vector<double> cuts = gradient_cuts(shape_.layers[static_cast<std::size_t>(layer)]);
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i)
      add({Phase::kBackward, layer, kNoId, kNoId},
          {Stage::kGradReduce, WorkKind::kAllReduce, table_.backward.all_reduce, table_.alpha_all_reduce,
           cuts[i + 1] - cuts[i]},
          static_cast<int>(i), attention_done_[static_cast<std::size_t>(layer)]);
  }

  const StageTable& table_;
  int layers_, micro_batches_;
  const Shape& shape_;
  GraphBuilder builder_;
  std::vector<std::vector<TaskId>> attention_done_;  // [layers] backward, all sub-batches and micro-batches
};

}  // namespace

StageEmitter::StageEmitter(StageTable table, int layers, int micro_batches)
    : table_(std::move(table)), layers_(layers) {
  WEFT_CHECK(layers >= 1 && micro_batches >= 1, layers, " layers and ", micro_batches, " micro-batches");
  space_.base.layers.resize(static_cast<std::size_t>(layers));
  space_.base.micro_batches_in_flight = 2;
  space_.num_micro_batches = micro_batches;
  space_.max_sub_batches = 6;
  space_.min_sub_batch_share = 1.0 / space_.max_sub_batches;
  space_.max_forward_chunks = space_.max_backward_chunks = 8;
  space_.max_gradient_slices = table_.backward.all_reduce > 0.0 ? 8 : 1;
}

Graph StageEmitter::emit(const Shape& shape) const {
  WEFT_CHECK(static_cast<int>(shape.layers.size()) == layers_, "the shape has ", shape.layers.size(), " layers, not ",
             layers_);
  return StepEmission(table_, layers_, space_.num_micro_batches, shape).run();
}

CostModel StageEmitter::costs() const {
  CostModel cost;
  cost.source = table_.name;
  const auto set = [&](WorkKind kind, double alpha_ms) {
    cost.intra[static_cast<std::size_t>(kind)] = cost.inter[static_cast<std::size_t>(kind)] = {alpha_ms * kMs, 1.0};
  };
  set(WorkKind::kMemory, 0.0);
  set(WorkKind::kGroupedGemm, table_.alpha_expert);
  set(WorkKind::kAllToAll, table_.alpha_all_to_all);
  set(WorkKind::kAllGather, table_.alpha_all_gather);
  set(WorkKind::kReduceScatter, table_.alpha_reduce_scatter);
  set(WorkKind::kAllReduce, table_.alpha_all_reduce);
  return cost;
}

double fsmoe_closed_form_ms(const StageTable& table, int layers, int micro_batches) {
  const double esp = table.expert_shard_share;
  struct Direction {
    double moe = 0.0, dense = 0.0, idle = 0.0;  // idle: of the inter-node link in both
  };
  const auto direction = [&](const StageTimes& t) {
    Direction best;
    best.dense = (t.all_gather + t.reduce_scatter) * (1.0 - esp) + t.routing + t.order + t.attention;
    for (const int r : {1, 2, 4, 8}) {
      const auto piece = [&](double ms, double alpha) { return alpha + (ms - alpha) / r; };
      const double ta = piece(t.all_to_all / 2, table.alpha_all_to_all);
      const double ag = piece(t.all_gather * esp, table.alpha_all_gather);
      const double rs = piece(t.reduce_scatter * esp, table.alpha_reduce_scatter);
      const double te = piece(t.expert, table.alpha_expert);
      const double time = std::max({2 * ta + ag + rs + r * te, 2 * r * ta + ag + rs, 2 * ta + r * (ag + rs)});
      if (r > 1 && time >= best.moe) continue;
      best.moe = time;
      best.idle = time - 2 * r * ta + best.dense;
    }
    return best;
  };
  const Direction forward = direction(table.forward), backward = direction(table.backward);
  const double blocks = static_cast<double>(layers) * micro_batches;
  const double exposed = std::max(0.0, layers * (table.backward.all_reduce - backward.idle));
  return blocks * (forward.moe + forward.dense + backward.moe + backward.dense) + exposed;
}

}  // namespace weft::scheduler
