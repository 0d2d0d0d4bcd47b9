#include "scheduler/layer_emitter.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/error.h"

namespace weft::scheduler {
namespace {

TaskSpec task(Stage stage, Phase phase, Resource resource, const Work& whole, double share, int chunk) {
  TaskSpec spec;
  spec.stage = stage;
  spec.phase = phase;
  spec.layer = spec.micro_batch = spec.sub_batch = 0;
  spec.chunk = static_cast<std::int16_t>(chunk);
  spec.resources = {resource};
  spec.work = {whole.kind, whole.amount * share, whole.operations};
  return spec;
}

/// Times of one of r pieces.
struct PieceTimes {
  double a2a, all_gather, reduce_scatter, expert, gradient;
};

PieceTimes piece_times(const LayerWork& work, Phase phase, int r, const CostModel& cost) {
  const auto of = [&](Stage stage, Resource resource, const Work& whole) {
    return cost.cost_us(task(stage, phase, resource, whole, 1.0 / r, 0));
  };
  PieceTimes t{of(Stage::kDispatch, Resource::kInter, work.all_to_all),
               of(Stage::kAllGather, Resource::kIntra, work.all_gather),
               of(Stage::kReduceScatter, Resource::kIntra, work.reduce_scatter),
               of(Stage::kExpert, Resource::kCompute, work.expert), 0.0};
  if (work.gradient.amount > 0.0)
    t.gradient = cost.cost_us(task(Stage::kGradReduce, phase, Resource::kInter, work.gradient, 1.0, 0));
  return t;
}

}  // namespace

LayerEmitter::LayerEmitter(const LayerWork& work, Phase phase, int max_chunks) : work_(work), phase_(phase) {
  WEFT_CHECK(phase != Phase::kUpdate && max_chunks >= 1, "a layer has a forward and a backward");
  space_.base.layers.resize(1);
  (phase == Phase::kForward ? space_.max_forward_chunks : space_.max_backward_chunks) = max_chunks;
  space_.has_weight_grads = phase == Phase::kBackward;
  space_.max_gradient_slices = work.gradient.amount > 0.0 ? 8 : 1;
}

int LayerEmitter::chunks(const Shape& shape) const {
  return phase_ == Phase::kForward ? shape.layers[0].forward_chunks : shape.layers[0].backward_chunks;
}

Graph LayerEmitter::emit(const Shape& shape) const {
  const int r = chunks(shape);
  return emit(shape, std::vector<double>(static_cast<std::size_t>(r), 1.0 / r));
}

Graph LayerEmitter::emit(const Shape& shape, std::span<const double> shares) const {
  const LayerShape& layer = shape.layers[0];
  const int r = chunks(shape);
  WEFT_CHECK(static_cast<int>(shares.size()) == r, shares.size(), " shares of ", r, " chunks");
  const std::vector<int> cuts =
      phase_ == Phase::kBackward ? weight_grad_cuts(r, layer.weight_grad_pieces) : std::vector<int>{};
  Work expert = work_.expert;
  if (phase_ == Phase::kBackward && cuts.empty()) {  // dX and dW at once
    expert.operations *= 2.0;
    expert.amount *= 2.0;
  }
  GraphBuilder builder;
  std::vector<TaskId> gathered;
  for (int c = 0; c < r; ++c) {
    const auto add = [&](Stage stage, Resource resource, const Work& whole, TaskId after) {
      return builder.add_task_after(task(stage, phase_, resource, whole, shares[static_cast<std::size_t>(c)], c),
                                    after == kNoId ? std::vector<TaskId>{} : std::vector<TaskId>{after});
    };
    TaskId t = add(Stage::kDispatch, Resource::kInter, work_.all_to_all, kNoId);
    t = add(Stage::kAllGather, Resource::kIntra, work_.all_gather, t);
    gathered.push_back(t);
    t = add(Stage::kExpert, Resource::kCompute, expert, t);
    t = add(Stage::kReduceScatter, Resource::kIntra, work_.reduce_scatter, t);
    add(Stage::kCombine, Resource::kInter, work_.all_to_all, t);
  }
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const std::vector<TaskId> inputs(gathered.begin() + cuts[i], gathered.begin() + cuts[i + 1]);
    const double share = std::accumulate(shares.begin() + cuts[i], shares.begin() + cuts[i + 1], 0.0);
    builder.add_task_after(task(Stage::kExpertDw, phase_, Resource::kCompute, work_.expert, share, static_cast<int>(i)),
                           inputs);
  }
  if (work_.gradient.amount > 0.0) {
    const std::vector<double> slices = gradient_cuts(layer);
    for (std::size_t i = 0; i + 1 < slices.size(); ++i) {
      TaskSpec spec = task(Stage::kGradReduce, phase_, Resource::kInter, work_.gradient, slices[i + 1] - slices[i],
                           static_cast<int>(i));
      spec.micro_batch = spec.sub_batch = kNoId;
      builder.add_task_after(spec, {});
    }
  }
  return builder.take();
}

double LayerEmitter::shape_bound_us(const Shape& shape, const CostModel& cost) const {
  const int r = chunks(shape);
  const PieceTimes t = piece_times(work_, phase_, r, cost);
  const double path = 2 * t.a2a + t.all_gather + t.expert + t.reduce_scatter;
  double bound = std::max({path, 2 * r * t.a2a + t.gradient, (r - 1) * t.a2a + path,
                           2 * t.a2a + r * (t.all_gather + t.reduce_scatter),
                           2 * t.a2a + r * t.all_gather + t.expert + t.reduce_scatter,
                           2 * t.a2a + t.all_gather + t.expert + r * t.reduce_scatter,
                           2 * t.a2a + t.all_gather + t.reduce_scatter + r * t.expert});
  if (phase_ == Phase::kBackward) {  // all of dX, and dW in as few pieces as can be
    const double dw = piece_times(work_, phase_, 1, cost).expert;
    bound = std::max(bound, t.a2a + t.all_gather + r * t.expert + dw);
  }
  return bound;
}

double LayerEmitter::bound_us(const CostModel& cost) const {
  double best = std::numeric_limits<double>::infinity();
  Shape shape = space_.base;
  for (int r = 1; r <= 4096; ++r) {
    shape.layers[0].forward_chunks = shape.layers[0].backward_chunks = r;
    const PieceTimes t = piece_times(work_, phase_, r, cost);
    if (2 * r * t.a2a >= best) break;  // grows with r: alpha once a chunk
    best = std::min(best, shape_bound_us(shape, cost));
  }
  return best;
}

double LayerEmitter::unequal_bound_us(const CostModel& cost) const {
  LayerWork nothing = work_;
  for (Work* work : {&nothing.all_to_all, &nothing.all_gather, &nothing.reduce_scatter, &nothing.expert})
    work->amount = 0.0;
  const PieceTimes alpha = piece_times(nothing, phase_, 1, cost), whole = piece_times(work_, phase_, 1, cost);
  double best = std::numeric_limits<double>::infinity();
  for (int r = 1; r <= 4096; ++r) {
    // Of one chunk: a chunk at all, and the largest. Of all chunks: what they take together.
    const PieceTimes end = r == 1 ? whole : alpha, largest = piece_times(work_, phase_, r, cost);
    const auto all = [&](double PieceTimes::*time) { return whole.*time + (r - 1) * alpha.*time; };
    const double a2a = all(&PieceTimes::a2a), gather = all(&PieceTimes::all_gather),
                 scatter = all(&PieceTimes::reduce_scatter), expert = all(&PieceTimes::expert);
    if (2 * a2a >= best) break;  // grows with r: alpha once a chunk
    double bound = std::max({2 * largest.a2a + largest.all_gather + largest.expert + largest.reduce_scatter,
                             2 * a2a + whole.gradient, a2a + end.all_gather + end.expert + end.reduce_scatter + end.a2a,
                             2 * end.a2a + gather + scatter, 2 * end.a2a + gather + end.expert + end.reduce_scatter,
                             2 * end.a2a + end.all_gather + end.expert + scatter,
                             2 * end.a2a + end.all_gather + end.reduce_scatter + expert});
    if (phase_ == Phase::kBackward) bound = std::max(bound, end.a2a + end.all_gather + expert + whole.expert);
    best = std::min(best, bound);
  }
  return best;
}

double fsmoe_layer_us(const LayerWork& work, Phase phase, int r, const CostModel& cost) {
  const PieceTimes t = piece_times(work, phase, r, cost);
  const double te = phase == Phase::kBackward ? 2 * t.expert : t.expert;
  return std::max({2 * r * t.a2a + t.gradient, 2 * t.a2a + t.all_gather + t.reduce_scatter + r * te,
                   2 * r * t.a2a + t.all_gather + t.reduce_scatter, 2 * t.a2a + r * (t.all_gather + t.reduce_scatter)});
}

}  // namespace weft::scheduler
