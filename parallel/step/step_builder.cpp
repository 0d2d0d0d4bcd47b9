#include "parallel/step/step_builder.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "core/error.h"
#include "parallel/step/attention_block.h"
#include "parallel/step/dense_block.h"
#include "parallel/step/ends.h"
#include "parallel/step/moe_block.h"
#include "parallel/step/update.h"

namespace weft::parallel {
namespace {

using scheduler::Recompute;

/// What one unit leaves of one layer for its backward.
struct LayerSaved {
  AttentionSaved attention;
  MoeSaved moe;
  DenseSaved dense;
};

/// One layer: attention, then experts or a dense feed-forward network.
template <class T>
class Layer {
 public:
  Layer(const StepContext<T>& ctx, int layer) : attention_(ctx, layer) {
    if (ctx.model.is_moe_layer(layer))
      moe_.emplace(ctx, layer);
    else
      dense_.emplace(ctx, layer);
  }
  BufferId forward(const Unit& unit, Phase phase, BufferId x, LayerSaved& saved,
                   const std::shared_ptr<PooledBalance>& pooled) const {
    if (moe_) moe_->prepare(unit, phase, saved.moe, pooled);
    const BufferId mid = attention_.forward(unit, phase, x, saved.attention);
    return moe_ ? moe_->forward(unit, phase, mid, saved.moe, pooled) : dense_->forward(unit, phase, mid, saved.dense);
  }
  void backward(const Unit& unit, const LayerSaved& saved, BufferId d,
                const std::shared_ptr<PooledBalance>& pooled) const {
    if (moe_)
      moe_->backward(unit, saved.moe, d, pooled);
    else
      dense_->backward(unit, saved.dense, d);
    attention_.backward(unit, saved.attention, d);
  }

 private:
  AttentionBlock<T> attention_;
  std::optional<MoeBlock<T>> moe_;
  std::optional<DenseBlock<T>> dense_;
};

template <class T>
void emit_unit(const StepContext<T>& ctx, const std::vector<Layer<T>>& layers, const Unit& unit) {
  const Embedding<T> embedding(ctx);
  const LossHead<T> head(ctx);
  std::shared_ptr<PooledBalance> pooled;  // null while only planning
  if (ctx.runtime != nullptr) {
    const std::int64_t group_rows = ctx.spec.geometry.group_sequences * ctx.rows_per_sequence();
    pooled = std::make_shared<PooledBalance>(unit.rows / group_rows * ctx.model.moe.experts, ctx.runtime->device);
  }
  std::vector<LayerSaved> saved(layers.size());
  BufferId x = embedding.forward(unit);
  for (std::size_t l = 0; l < layers.size(); ++l) x = layers[l].forward(unit, Phase::kForward, x, saved[l], pooled);
  const BufferId d = head.emit(unit, x);
  if (!ctx.training()) return;
  for (std::size_t l = layers.size(); l-- > 0;) {
    if (ctx.shape.layers[l].recompute == Recompute::kFull)
      static_cast<void>(layers[l].forward(unit, Phase::kBackward, saved[l].attention.x, saved[l], pooled));
    layers[l].backward(unit, saved[l], d, pooled);
  }
  embedding.backward(unit, d);
}

template <class T>
void emit_all(const StepSpec& spec, const scheduler::Shape& shape, Emission& out, const Runtime<T>* runtime) {
  WEFT_CHECK(static_cast<int>(shape.layers.size()) == spec.model.layers, "the shape has ", shape.layers.size(),
             " layers, the model ", spec.model.layers);
  const ParameterTable table(spec.model, spec.mesh);
  const StepContext<T> ctx(spec, shape, table, out, runtime);
  std::vector<Layer<T>> layers;
  layers.reserve(static_cast<std::size_t>(spec.model.layers));
  for (int l = 0; l < spec.model.layers; ++l) layers.emplace_back(ctx, l);
  const Update<T> update(ctx);
  if (spec.mode == StepMode::kTrain) update.emit_weight_gather();
  for (const Unit& unit : make_units(spec.geometry, shape)) emit_unit(ctx, layers, unit);
  if (!ctx.training()) return;
  update.emit_gradient_reduction();
  update.emit_norm_and_update();
}

}  // namespace

scheduler::Graph emit_step(const StepSpec& spec, const scheduler::Shape& shape, DType dtype) {
  Emission out(false);
  if (dtype == DType::kF64)
    emit_all<double>(spec, shape, out, nullptr);
  else if (dtype == DType::kBF16)
    emit_all<BF16>(spec, shape, out, nullptr);
  else
    emit_all<float>(spec, shape, out, nullptr);
  scheduler::Graph graph = out.take_graph();
  scheduler::limit_in_flight(graph, shape.micro_batches_in_flight);
  return graph;
}

scheduler::Shape uniform_shape(int layers, const ShapeOptions& o) {
  scheduler::Shape shape;
  shape.layers.assign(static_cast<std::size_t>(layers),
                      {o.forward_chunks, o.backward_chunks, o.weight_grad_pieces, o.recompute,
                       std::vector<double>(static_cast<std::size_t>(o.gradient_slices), 1.0 / o.gradient_slices)});
  shape.sub_batches = {o.sub_batches};
  shape.micro_batches_in_flight = o.micro_batches_in_flight;
  shape.padded = o.padded;
  return shape;
}

template <class T>
BoundStep<T>::BoundStep(const StepSpec& spec, const scheduler::Plan& plan, const Runtime<T>& runtime, Device device,
                        scheduler::ExecutorKind executor)
    : spec_(spec),
      plan_(plan),
      runtime_(runtime),
      num_units_(static_cast<int>(make_units(spec.geometry, plan.shape).size())),
      inputs_(spec, device),
      stream_(make_waiting_stream(device)) {
  WEFT_CHECK(device.kind == DeviceKind::kCpu || spec.host_apart, "a step on a GPU whose host is not apart");
  runtime_.device = device;
  WEFT_CHECK(spec.moe_hooks == (runtime.hooks != nullptr ? runtime.hooks->mask() : 0),
             "the step was described with hooks ", spec.moe_hooks, ", but those of the run are others");
  Emission out(true);
  emit_all<T>(spec_, plan_.shape, out, &runtime_);
  graph_ = out.take_graph();
  scheduler::limit_in_flight(graph_, plan_.shape.micro_batches_in_flight);
  bodies_ = out.take_bodies();
  std::string problems;
  for (const std::string& problem : scheduler::validate(graph_, plan_)) problems += "\n  " + problem;
  if (!problems.empty())
    throw Error(ErrorCode::kInvalidArgument, "the plan does not fit this step:" + problems,
                "plan again for this model, world and batch");
  slots_ = scheduler::assign_slots(graph_, plan_);
  arena_ = std::make_unique<scheduler::Arena>(device, graph_, slots_);
  runtime_.state->statistics = StepStatistics(spec.model, num_units_, spec.mesh.world_size, device);
  runtime_.state->scalars = StepScalars(spec.model.layers, device);
  if (executor == scheduler::ExecutorKind::kInline) return;
  streams_ = std::make_unique<scheduler::StreamExecutor>(device, graph_, plan_, slots_);
  if (executor == scheduler::ExecutorKind::kRecorded && why_not_recorded().empty())
    recorded_ = std::make_unique<RecordedStep>(*streams_, *runtime_.state, runtime_.comms->world());
}

template <class T>
std::string BoundStep<T>::why_not_recorded() const {
  if (runtime_.device.kind == DeviceKind::kCpu) return "only work of GPUs is recorded";
  if (std::any_of(graph_.tasks.begin(), graph_.tasks.end(),
                  [](const scheduler::Task& task) { return task.resources.has(Resource::kHost); }))
    return "the host waits for the counts of routed rows (whole capacities have none: schedule.pad_capacity)";
  if (runtime_.hooks != nullptr) return "the hooks of MoE layers run on the host";
  if (runtime_.capture != nullptr) return "results go to the caller's memory";
  const comm::Communicator& world = runtime_.comms->world();
  if (world.size() > 1 && !world.is_recordable()) return "collectives go through the host";
  return {};
}

template <class T>
void BoundStep<T>::start_step() {
  StepState& state = *runtime_.state;
  stream_->enqueue([&] {
    state.inputs = inputs_.upload(state.batches, *stream_);
    state.statistics.start(*stream_, state.previous_choices);
    state.scalars.start(*stream_, state);
  });
  stream_->synchronize();  // the tasks' streams start behind it
}

/// What the step has added up comes to the host.
template <class T>
void BoundStep<T>::finish_step() {
  StepState& state = *runtime_.state;
  stream_->enqueue([&] { state.statistics.fetch(*stream_); });
  stream_->synchronize();
  state.sums = state.statistics.sums_on_host();
  state.finite = std::isfinite(state.sums[0]) && std::isfinite(std::sqrt(state.sums[1]));
}

template <class T>
scheduler::Timeline BoundStep<T>::run() {
  if (!streams_) return run_inline({});
  start_step();
  scheduler::Timeline timeline = recorded_ ? recorded_->run(bodies_, *arena_) : streams_->run(bodies_, *arena_);
  finish_step();
  return timeline;
}

template <class T>
scheduler::Timeline BoundStep<T>::run_inline(const scheduler::TaskHooks& hooks) {
  start_step();
  if (!clock_) clock_ = make_stream_clock(runtime_.device, scheduler::num_points(graph_.num_tasks()));
  scheduler::Timeline timeline = scheduler::execute_inline(graph_, plan_, bodies_, *arena_, *stream_, *clock_, hooks);
  finish_step();
  return timeline;
}

template class BoundStep<float>;
template class BoundStep<double>;
template class BoundStep<BF16>;

}  // namespace weft::parallel
