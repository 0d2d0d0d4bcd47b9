// parallel/step/attention_core.cpp - set-up, the way through, and the core of ranks that share no ring.
// attention_exchange.cpp and attention_ring.cpp have the rest.
#include "parallel/step/attention_core.h"

#include <cmath>

#include "core/error.h"
#include "kernels/reduce.h"

namespace weft::parallel {

template <class T>
AttentionCore<T>::AttentionCore(const StepContext<T>& ctx, int layer)
    : ctx_(ctx),
      layer_(layer),
      split_(split_heads(ctx.model.heads, ctx.model.kv_heads, ctx.model.head_width(), ctx.mesh.sequence_heads)),
      shape_{split_.heads, split_.kv_heads, split_.head_dim, 1.0 / std::sqrt(static_cast<double>(split_.head_dim))} {
  const SequenceGroup group = ctx.mesh.sequence_group();
  const Layout core = gather_heads(zigzag_layout(1, ctx.sequence_length(), group), group.heads);
  steps_ = std::make_shared<const std::vector<RingStep>>(ring_steps(core, ctx.mesh.ring_rank()));
}

template <class T>
kernels::AttentionRows CoreRows<T>::of(int ring_rank) const {
  const MicroBatch& batch = runtime->state->inputs[static_cast<std::size_t>(micro_batch)];
  if (batch.core_segments != nullptr) {
    const std::int64_t at = ring_rank * num_rows + first;
    return {batch.core_segments + at, batch.core_positions + at};
  }
  WEFT_CHECK(ring_rank == 0, "a batch of shared sequences without the rows of its ring");
  return {batch.segments + first, batch.positions + first};
}

template <class T>
CoreRows<T> AttentionCore<T>::rows_of(const Unit& unit) const {
  const std::int64_t micro_batch_rows = ctx_.spec.geometry.micro_batch * ctx_.rows_per_sequence();
  return {ctx_.runtime, unit.micro_batch, unit.first_row * split_.num_ranks, micro_batch_rows * split_.num_ranks};
}

template <class T>
CoreOrder AttentionCore<T>::order_of(const Unit& unit) const {
  return {split_.num_ranks, sequences(unit), ctx_.rows_per_sequence()};
}

/// A task that reads and writes `elements`.
template <class T>
TaskSpec AttentionCore<T>::copy_task(const Unit& unit, Phase phase, const char* label, std::int64_t elements) const {
  return compute_task(Stage::kAttention, phase, label, layer_, unit, WorkKind::kMemory,
                      2.0 * static_cast<double>(elements) * sizeof(T));
}

/// The columns of a buffer like qkv; without an exchange of heads, the core works on it as it is.
template <class T>
CoreTensors AttentionCore<T>::local_tensors(BufferId qkv) const {
  const std::int64_t q = split_.num_heads * split_.head_dim, kv = split_.num_kv_heads * split_.head_dim;
  return {{qkv, q + 2 * kv, 0}, {qkv, q + 2 * kv, q}, {qkv, q + 2 * kv, q + kv}};
}

/// New buffers for the core's share of q, k and v, or of their gradients.
template <class T>
CoreTensors AttentionCore<T>::core_tensors(const Unit& unit) const {
  const std::int64_t rows = core_rows(unit), q = split_.q_width(), kv = split_.kv_width();
  if (!circulates()) {
    const BufferId all = ctx_.buffer("qkv of the group", rows * split_.width());
    return {{all, split_.width(), 0}, {all, split_.width(), q}, {all, split_.width(), q + kv}};
  }
  const BufferId queries = ctx_.buffer("q of the group", rows * q);
  const BufferId message = ctx_.buffer("k and v", rows * 2 * kv);
  return {{queries, q, 0}, {message, 2 * kv, 0}, {message, 2 * kv, kv}};
}

/// Keys and values of `qkv` as a message of the ring.
template <class T>
CoreTensors AttentionCore<T>::pack_ring_message(const Unit& unit, Phase phase, BufferId qkv) const {
  const std::int64_t rows = unit.rows, width = 2 * split_.kv_width();
  const CoreTensors local = local_tensors(qkv);
  const BufferId message = ctx_.buffer("k and v", rows * width);
  ctx_.out.task(copy_task(unit, phase, "pack k and v", rows * width), {qkv}, {message}, [=](TaskContext& c) {
    kernels::copy_rows<T>(c.stream, {c.arena.get<T>(message), rows, width}, columns<T>(c, local.k, rows, width));
  });
  return {local.q, {message, width, 0}, {message, width, width / 2}};
}

/// The way back, of gradients.
template <class T>
void AttentionCore<T>::unpack_ring_message(const Unit& unit, BufferId message, BufferId d_qkv) const {
  const std::int64_t rows = unit.rows, width = 2 * split_.kv_width();
  const CoreTensors local = local_tensors(d_qkv);
  ctx_.out.task(copy_task(unit, Phase::kBackward, "unpack dk and dv", rows * width), {message}, {d_qkv},
                [=](TaskContext& c) {
                  kernels::copy_rows<T>(c.stream, columns<T>(c, local.k, rows, width),
                                        Matrix<const T>(c.arena.get<T>(message), rows, width));
                });
}

template <class T>
BufferId AttentionCore<T>::forward(const Unit& unit, Phase phase, BufferId qkv, CoreSaved& saved) const {
  if (exchanges())
    saved.in = exchange_heads(unit, phase, qkv);
  else
    saved.in = circulates() ? pack_ring_message(unit, phase, qkv) : local_tensors(qkv);
  saved.context = ctx_.buffer("attention context", core_rows(unit) * split_.q_width());
  saved.lse = ctx_.template buffer<Wide<T>>("attention lse", core_rows(unit) * split_.heads);
  if (circulates())
    emit_ring_forward(unit, phase, saved);
  else
    emit_local_forward(unit, phase, saved);
  return exchanges() ? return_context(unit, phase, saved.context) : saved.context;
}

template <class T>
BufferId AttentionCore<T>::backward(const Unit& unit, const CoreSaved& saved, BufferId d_context) const {
  const auto emit_core = [&](const CoreSaved& s, BufferId d_core, CoreTensors& d) {
    if (circulates())
      emit_ring_backward(unit, s, d_core, d);
    else
      emit_local_backward(unit, s, d_core, d);
  };
  if (exchanges()) {
    const BufferId d_core = exchange_context_gradient(unit, d_context);
    CoreTensors d = core_tensors(unit);
    emit_core(saved, d_core, d);
    return return_gradients(unit, d);
  }
  const BufferId d_qkv = ctx_.buffer("d qkv", unit.rows * split_.width());
  CoreTensors d = local_tensors(d_qkv);
  CoreSaved local = saved;
  if (circulates()) local.in = pack_ring_message(unit, Phase::kBackward, saved.in.q.buffer);  // not kept beside qkv
  emit_core(local, d_context, d);
  if (circulates()) unpack_ring_message(unit, d.k.buffer, d_qkv);
  return d_qkv;
}

template <class T>
void AttentionCore<T>::emit_local_forward(const Unit& unit, Phase phase, const CoreSaved& s) const {
  const std::int64_t rows = core_rows(unit);
  ctx_.out.task(ring_task(unit, phase, 0, kForwardFlops), {s.in.q.buffer}, {s.context, s.lse},
                [=, at = rows_of(unit), shape = shape_, ring_rank = ctx_.mesh.ring_rank()](TaskContext& c) {
                  const kernels::AttentionRows mask = at.of(ring_rank);
                  kernels::attention_forward<T>(
                      c.stream, {c.arena.get<T>(s.context), rows, shape.num_heads * shape.head_dim},
                      {c.arena.get<Wide<T>>(s.lse), rows, shape.num_heads},
                      {columns<T>(c, s.in.q, rows, shape.num_heads * shape.head_dim),
                       columns<T>(c, s.in.k, rows, shape.num_kv_heads * shape.head_dim),
                       columns<T>(c, s.in.v, rows, shape.num_kv_heads * shape.head_dim), mask, mask},
                      shape);
                });
}

template <class T>
void AttentionCore<T>::emit_local_backward(const Unit& unit, const CoreSaved& s, BufferId d_context,
                                           const CoreTensors& d) const {
  const std::int64_t rows = core_rows(unit);
  ctx_.out.task(
      ring_task(unit, Phase::kBackward, 0, kBackwardFlops), {d_context, s.in.q.buffer, s.context, s.lse}, {d.q.buffer},
      [=, at = rows_of(unit), shape = shape_, ring_rank = ctx_.mesh.ring_rank()](TaskContext& c) {
        const std::int64_t q = shape.num_heads * shape.head_dim, kv = shape.num_kv_heads * shape.head_dim;
        const kernels::AttentionRows mask = at.of(ring_rank);
        kernels::attention_backward<T>(
            c.stream, {columns<T>(c, d.q, rows, q), columns<T>(c, d.k, rows, kv), columns<T>(c, d.v, rows, kv)},
            Matrix<const T>(c.arena.get<T>(d_context), rows, q), Matrix<const T>(c.arena.get<T>(s.context), rows, q),
            Matrix<const Wide<T>>(c.arena.get<Wide<T>>(s.lse), rows, shape.num_heads),
            {columns<T>(c, s.in.q, rows, q), columns<T>(c, s.in.k, rows, kv), columns<T>(c, s.in.v, rows, kv), mask,
             mask},
            shape);
      });
}

template struct CoreRows<float>;
template struct CoreRows<double>;
template struct CoreRows<BF16>;
template class AttentionCore<float>;
template class AttentionCore<double>;
template class AttentionCore<BF16>;

}  // namespace weft::parallel
