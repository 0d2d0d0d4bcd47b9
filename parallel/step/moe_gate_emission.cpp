#include "parallel/step/moe_gate_emission.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "parallel/moe/gate_registry.h"
#include "parallel/moe/padded_gate.h"
#include "parallel/step/norm.h"

namespace weft::parallel {
namespace {

GateOptions gate_options(const StepSpec& spec) {
  const StepGeometry& g = spec.geometry;
  GateOptions options;
  options.model = spec.model;
  options.group_rows = g.group_sequences * g.rows_per_sequence();
  options.group_tokens = std::int64_t{g.group_sequences} * g.sequence_length;
  options.layout.sequence_ranks = g.sequence_ranks;
  options.training = spec.mode != StepMode::kEvaluate;
  return options;
}

template <class T>
std::shared_ptr<const Gate<T>> gate_of(const StepContext<T>& ctx) {
  const GateOptions options = gate_options(ctx.spec);
  std::unique_ptr<Gate<T>> gate = make_gate<T>(options);
  if (ctx.shape.padded && ctx.training()) return padded(std::move(gate), options);
  return gate;
}

}  // namespace

bool can_pad(const StepSpec& spec) {
  const GateOptions options = gate_options(spec);
  return spec.model.layer_pattern.find('M') != std::string::npos && can_pad(*make_gate<float>(options), options);
}

template <class T>
GateEmission<T>::GateEmission(const StepContext<T>& ctx, int layer)
    : ctx_(ctx),
      layer_(layer),
      bucket_(ctx.table.dense_bucket(layer)),
      first_moe_layer_(static_cast<std::size_t>(layer) == ctx.model.layer_pattern.find('M')),
      group_rows_(gate_options(ctx.spec).group_rows),
      gate_(gate_of(ctx)),
      needs_(gate_->needs()) {
  for (const ParameterSpec& spec : gate_entry(ctx.model.moe.gate).parameters(ctx.model))
    parameters_.push_back(ctx.parameter(str("layers.", layer, ".", spec.name)));
  if (needs_.collective)
    world_state_ = ctx.out.buffer({"running choices", MemoryClass::kWorkspace,
                                   ctx.model.moe.experts * static_cast<std::int64_t>(sizeof(double)), false, true});
}

template <class T>
GateBuffers GateEmission<T>::buffers(const Unit& unit, const GateBuffers& before, bool again) const {
  GateBuffers out;
  out.fill(kNoBuffer);
  for (const GateTensor& tensor : gate_->tensors(unit.rows)) {
    const auto id = static_cast<std::size_t>(tensor.id);
    WEFT_CHECK(id < out.size(), "a gate's tensor has id ", tensor.id, ", the limit is ", kMaxGateTensors);
    if (tensor.life == GateTensorLife::kBackward) continue;
    if (tensor.life == GateTensorLife::kFirstPass && again) {
      out[id] = before[id];
      continue;
    }
    const MemoryClass memory =
        tensor.life == GateTensorLife::kForward ? MemoryClass::kWorkspace : MemoryClass::kActivations;
    if (tensor.element == GateElement::kReal)
      out[id] = ctx_.template buffer<Wide<T>>(tensor.label, tensor.count, memory);
    else if (tensor.element == GateElement::kRow)
      out[id] = ctx_.buffer(tensor.label, tensor.count, memory);
    else if (tensor.element == GateElement::kI32)
      out[id] = ctx_.template buffer<std::int32_t>(tensor.label, tensor.count, memory);
    else
      out[id] = ctx_.template buffer<double>(tensor.label, tensor.count, memory);
  }
  return out;
}

/// The table's entries are counted in the task that has written the last of them. Without hops, nobody else's come.
template <class T>
auto GateEmission<T>::count_entries(const Unit& unit, const std::shared_ptr<DispatchPlan>& plan) const -> After {
  const TableShape shape = gate_->table(unit.rows);
  const bool alone = ctx_.mesh.ep_size * ctx_.mesh.esp_size == 1;
  return {{[=](GateCall<T>& call) {
            if (!plan) return;
            plan->count_choices(call.stream, {call.template tensor<std::int32_t>(kGateKept), shape.rows, shape.width});
            if (!alone) return;
            plan->keep_counts(call.stream);
            plan->fetch_counts(call.stream);
          }},
          {kGateKept}};
}

/// Choices and weights are shown to who asked.
template <class T>
auto GateEmission<T>::show_choices(const Unit& unit) const -> After {
  const StepGeometry& g = ctx_.spec.geometry;
  const std::int64_t first_row =
      std::int64_t{unit.micro_batch} * g.micro_batch * g.rows_per_sequence() + unit.first_row;
  const TableShape shape = gate_->table(unit.rows);
  const auto show = [=, runtime = ctx_.runtime, layer = layer_](GateCall<T>& call) {
    const std::int32_t* choice = call.template tensor<std::int32_t>(kGateChoice);
    if (choice == nullptr || runtime->capture == nullptr || runtime->capture->expert.empty()) return;
    Capture<T>& capture = *runtime->capture;
    const std::int64_t n = shape.rows * shape.width;
    copy_bytes(call.stream, capture.expert[layer].row(first_row), choice, n * std::int64_t{sizeof(std::int32_t)});
    copy_bytes(call.stream, capture.expert_weight[layer].row(first_row), call.tensor(kGateWeight),
               n * std::int64_t{sizeof(Wide<T>)});
  };
  return {{show}, {kGateWeight, kGateChoice}};
}

template <class T>
void GateEmission<T>::emit(const Pass& pass, const GatePhase<T>& phase, bool first, const After& after) const {
  TaskSpec spec =
      compute_task(Stage::kGate, pass.phase, phase.label, layer_, pass.unit, phase.work.kind, phase.work.amount);
  spec.work = phase.work;
  if (phase.group == GateGroup::kWorld) spec.resources = group_links(ctx_.mesh, ctx_.mesh.world_size, 1);
  if (phase.group == GateGroup::kSequence) spec.resources = group_links(ctx_.mesh, ctx_.mesh.sp_size(), 1);
  const bool backward = pass.dx != kNoBuffer;
  BufferList reads{pass.gradients.d_weight, pass.gradients.d_mix}, writes{};
  if (phase.reads_hidden) {
    reads.add(pass.x);
    reads.add(ctx_.weights(bucket_));
  }
  const auto buffer_of = [&](int id) { return pass.tensors[static_cast<std::size_t>(id)]; };
  // What the phase does not name may lie in no slot, or in one that has another owner by now: it gets no pointer to it.
  std::set<int> named(phase.reads.begin(), phase.reads.end());
  named.insert(after.reads.begin(), after.reads.end());
  for (const int id : named) reads.add(buffer_of(id));
  for (const int id : std::set<int>(phase.writes.begin(), phase.writes.end())) writes.add(buffer_of(id));
  named.insert(phase.writes.begin(), phase.writes.end());
  if (phase.group == GateGroup::kWorld) writes.add(world_state_);
  if (backward && phase.reads_hidden) {
    writes.add(pass.dx);
    writes.add(ctx_.gradients(bucket_, GradientPart::kFeedForward));
  }
  const StepGeometry& g = ctx_.spec.geometry;
  ctx_.out.task(
      spec, reads, writes,
      [=, gate = gate_, run = phase.run, p = pass, then = after.run,
       named = std::vector<int>(named.begin(), named.end()), reads_hidden = phase.reads_hidden, unit = pass.unit,
       parameters = parameters_, layer = layer_, width = ctx_.width(), runtime = ctx_.runtime,
       resets = first && pass.counted && first_moe_layer_, sp_rank = ctx_.mesh.sp_rank(), g = g,
       accumulate = accumulate_after_first(pass.unit)](TaskContext& c) {
        if (resets) p.pooled->layers = 0;
        GateCall<T> call{c.stream, Matrix<const T>(reads_hidden ? c.arena.get<T>(p.x) : nullptr, unit.rows, width)};
        for (const int id : named)
          if (const BufferId b = p.tensors[static_cast<std::size_t>(id)]; b != kNoBuffer)
            call.tensors[static_cast<std::size_t>(id)] = c.arena.get<std::byte>(b);
        call.parameters = parameters;
        call.state = runtime->state;
        call.layer = layer;
        const MicroBatch& batch = runtime->state->inputs[static_cast<std::size_t>(unit.micro_batch)];
        call.ids = {batch.tokens,   batch.samples,         batch.places, g.micro_batch * g.rows_per_sequence(),
                    unit.first_row, g.rows_per_sequence(), sp_rank};
        call.comms = runtime->comms;
        if (p.counted) call.statistics = runtime->state->statistics.router(unit.index, layer);
        call.pooled = p.pooled.get();
        if (backward) {
          call.dx = {c.arena.get<T>(p.dx), unit.rows, width};
          call.dx_accumulate = p.dx_accumulate;
          call.accumulate = accumulate;
          call.d_weight = c.arena.get<Wide<T>>(p.gradients.d_weight);
          if (p.gradients.d_mix != kNoBuffer) call.d_mix = c.arena.get<Wide<T>>(p.gradients.d_mix);
        }
        run(call);
        for (const auto& follow : then) follow(call);
      });
}

/// Index behind the last phase that writes one of `tensors`.
template <class T>
std::size_t end_of_writers(const std::vector<GatePhase<T>>& phases, std::initializer_list<int> tensors) {
  std::size_t end = 0;
  for (std::size_t i = 0; i < phases.size(); ++i)
    for (const int id : tensors)
      if (std::find(phases[i].writes.begin(), phases[i].writes.end(), id) != phases[i].writes.end()) end = i + 1;
  return end;
}

template <class T>
void GateEmission<T>::emit_forward(const Forward& forward, BufferId x, bool early) const {
  Pass pass{forward.unit, forward.phase, x, kNoBuffer, forward.tensors};
  pass.pooled = forward.pooled;
  pass.counted = forward.phase == Phase::kForward && ctx_.training();  // a recomputation must not count again
  const std::vector<GatePhase<T>> phases = gate_->forward(forward.unit.rows, pass.counted);
  const std::size_t table_end = end_of_writers(phases, {kGateKept});
  const std::size_t shown_end = end_of_writers(phases, {kGateKept, kGateWeight, kGateChoice});
  const std::size_t early_end = needs_.early_destinations ? table_end : 0;
  for (std::size_t i = early ? 0 : early_end; i < (early ? early_end : phases.size()); ++i) {
    WEFT_CHECK(!early || !phases[i].reads_hidden, "phase '", phases[i].label, "' of gate ", ctx_.model.moe.gate,
               " reads hidden states, but the gate declares early destinations");
    After after;
    const auto add = [&](const After& more) {
      after.run.insert(after.run.end(), more.run.begin(), more.run.end());
      after.reads.insert(after.reads.end(), more.reads.begin(), more.reads.end());
    };
    if (i + 1 == table_end && needs_.count_exchange) add(count_entries(forward.unit, forward.plan));
    if (i + 1 == shown_end) add(show_choices(forward.unit));
    emit(pass, phases[i], i == 0, after);
  }
}

template <class T>
void GateEmission<T>::forward_early(const Forward& pass) const {
  emit_forward(pass, kNoBuffer, true);
}

template <class T>
void GateEmission<T>::forward(const Forward& pass, BufferId x) const {
  emit_forward(pass, x, false);
}

template <class T>
void GateEmission<T>::backward(const Unit& unit, BufferId x, const GateBuffers& tensors, const GateGradients& gradients,
                               BufferId dx, kernels::Accumulate dx_accumulate,
                               const std::shared_ptr<PooledBalance>& pooled) const {
  Pass pass{unit, Phase::kBackward, x, dx, tensors, gradients, dx_accumulate, pooled};
  for (const GateTensor& tensor : gate_->tensors(unit.rows))
    if (tensor.life == GateTensorLife::kBackward)
      pass.tensors[static_cast<std::size_t>(tensor.id)] =
          ctx_.template buffer<Wide<T>>(tensor.label, tensor.count, MemoryClass::kWorkspace);
  const std::vector<GatePhase<T>> phases = gate_->backward(unit.rows);
  for (const GatePhase<T>& phase : phases) emit(pass, phase, false, After{});
}

template class GateEmission<float>;
template class GateEmission<double>;
template class GateEmission<BF16>;

}  // namespace weft::parallel
