#include "parallel/step/moe_gate_emission.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "parallel/moe/gate_registry.h"
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

}  // namespace

template <class T>
GateEmission<T>::GateEmission(const StepContext<T>& ctx, int layer)
    : ctx_(ctx),
      layer_(layer),
      bucket_(ctx.table.dense_bucket(layer)),
      first_moe_layer_(static_cast<std::size_t>(layer) == ctx.model.layer_pattern.find('M')),
      group_rows_(gate_options(ctx.spec).group_rows),
      gate_(make_gate<T>(gate_options(ctx.spec))),
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
      out[id] = ctx_.buffer(tensor.label, tensor.count, memory);
    else if (tensor.element == GateElement::kI32)
      out[id] = ctx_.template buffer<std::int32_t>(tensor.label, tensor.count, memory);
    else
      out[id] = ctx_.template buffer<double>(tensor.label, tensor.count, memory);
  }
  return out;
}

/// What follows the routing in the same task: the table's entries are counted, and shown to who asked.
template <class T>
auto GateEmission<T>::bookkeeping(const Unit& unit, const std::shared_ptr<DispatchPlan>& plan) const -> After {
  const StepGeometry& g = ctx_.spec.geometry;
  const std::int64_t first_row =
      std::int64_t{unit.micro_batch} * g.micro_batch * g.rows_per_sequence() + unit.first_row;
  const TableShape shape = gate_->table(unit.rows);
  return [=, runtime = ctx_.runtime, layer = layer_](GateCall<T>& call) {
    const Matrix<std::int32_t> kept(call.template tensor<std::int32_t>(kGateKept), shape.rows, shape.width);
    if (plan) plan->count_choices(kept);
    const std::int32_t* choice = call.template tensor<std::int32_t>(kGateChoice);
    if (choice == nullptr || runtime->capture == nullptr || runtime->capture->expert.empty()) return;
    Capture<T>& capture = *runtime->capture;
    const std::int64_t n = shape.rows * shape.width;
    std::copy_n(choice, n, capture.expert[layer].row(first_row));
    std::copy_n(call.tensor(kGateWeight), n, capture.expert_weight[layer].row(first_row));
  };
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
  if (after) named.insert({kGateKept, kGateWeight, kGateChoice});  // bookkeeping looks at the table
  for (const int id : named) reads.add(buffer_of(id));
  for (const int id : phase.writes) writes.add(buffer_of(id));
  named.insert(phase.writes.begin(), phase.writes.end());
  if (phase.group == GateGroup::kWorld) writes.add(world_state_);
  if (backward && phase.reads_hidden) {
    writes.add(pass.dx);
    writes.add(ctx_.gradients(bucket_, GradientPart::kFeedForward));
  }
  const StepGeometry& g = ctx_.spec.geometry;
  ctx_.out.task(
      spec, reads, writes,
      [=, gate = gate_, run = phase.run, p = pass, named = std::vector<int>(named.begin(), named.end()),
       reads_hidden = phase.reads_hidden, unit = pass.unit, parameters = parameters_, layer = layer_,
       width = ctx_.width(), runtime = ctx_.runtime, resets = first && pass.counted && first_moe_layer_,
       sp_rank = ctx_.mesh.sp_rank(), g = g, accumulate = accumulate_after_first(pass.unit)](TaskContext& c) {
        if (resets) *p.pooled = {};
        GateCall<T> call{c.stream, Matrix<const T>(reads_hidden ? c.arena.get<T>(p.x) : nullptr, unit.rows, width)};
        for (const int id : named)
          if (const BufferId b = p.tensors[static_cast<std::size_t>(id)]; b != kNoBuffer)
            call.tensors[static_cast<std::size_t>(id)] = c.arena.get<std::byte>(b);
        call.parameters = parameters;
        call.state = runtime->state;
        call.layer = layer;
        const MicroBatch& batch = runtime->state->batches[static_cast<std::size_t>(unit.micro_batch)];
        call.ids = {batch.samples,  batch.places,          g.micro_batch * g.rows_per_sequence(),
                    unit.first_row, g.rows_per_sequence(), sp_rank};
        call.comms = runtime->comms;
        if (p.counted) call.statistics = &runtime->state->statistics.router(unit.index, layer);
        call.pooled = p.pooled.get();
        if (backward) {
          call.dx = {c.arena.get<T>(p.dx), unit.rows, width};
          call.dx_accumulate = p.dx_accumulate;
          call.accumulate = accumulate;
          call.d_weight = c.arena.get<T>(p.gradients.d_weight);
          if (p.gradients.d_mix != kNoBuffer) call.d_mix = c.arena.get<T>(p.gradients.d_mix);
        }
        run(call);
        if (after) after(call);
      });
}

template <class T>
void GateEmission<T>::forward(const Unit& unit, Phase phase, BufferId x, const GateBuffers& tensors,
                              const std::shared_ptr<DispatchPlan>& plan,
                              const std::shared_ptr<PooledBalance>& pooled) const {
  Pass pass{unit, phase, x, kNoBuffer, tensors};
  pass.pooled = pooled;
  pass.counted = phase == Phase::kForward && ctx_.training();  // a recomputation must not count again
  const std::vector<GatePhase<T>> phases = gate_->forward(unit.rows, pass.counted);
  std::size_t last = 0;
  for (std::size_t i = 0; i < phases.size(); ++i)
    if (std::find(phases[i].writes.begin(), phases[i].writes.end(), kGateKept) != phases[i].writes.end()) last = i;
  for (std::size_t i = 0; i < phases.size(); ++i)
    emit(pass, phases[i], i == 0, i == last ? bookkeeping(unit, needs_.count_exchange ? plan : nullptr) : After{});
}

template <class T>
void GateEmission<T>::backward(const Unit& unit, BufferId x, const GateBuffers& tensors, const GateGradients& gradients,
                               BufferId dx, kernels::Accumulate dx_accumulate,
                               const std::shared_ptr<PooledBalance>& pooled) const {
  Pass pass{unit, Phase::kBackward, x, dx, tensors, gradients, dx_accumulate, pooled};
  for (const GateTensor& tensor : gate_->tensors(unit.rows))
    if (tensor.life == GateTensorLife::kBackward)
      pass.tensors[static_cast<std::size_t>(tensor.id)] =
          ctx_.buffer(tensor.label, tensor.count, MemoryClass::kWorkspace);
  const std::vector<GatePhase<T>> phases = gate_->backward(unit.rows);
  for (const GatePhase<T>& phase : phases) emit(pass, phase, false, After{});
}

template class GateEmission<float>;
template class GateEmission<double>;

}  // namespace weft::parallel
