// parallel/step/attention_exchange.cpp - heads for tokens before the core, tokens for heads after it, and their
// transposes in the backward.
#include "comm/communicator.h"
#include "comm/cost.h"
#include "parallel/step/attention_core.h"

namespace weft::parallel {

/// packed: [P, T * width], block r for rank r; received: what the ranks send here, likewise.
template <class T>
void AttentionCore<T>::emit_exchange(const Unit& unit, Phase phase, const char* label, BufferId packed,
                                     BufferId received, std::int64_t width) const {
  const int ranks = split_.num_ranks;
  const std::int64_t block = unit.rows * width, count = ranks * block;
  TaskSpec spec =
      comm_task(Stage::kSequenceExchange, phase, label, layer_, group_links(ctx_.mesh, ranks, 1), WorkKind::kAllToAll,
                comm::wire_bytes(comm::Collective::kAllToAll, ranks, static_cast<double>(count) * sizeof(T)));
  spec.micro_batch = static_cast<std::int16_t>(unit.micro_batch);
  spec.sub_batch = static_cast<std::int16_t>(unit.sub_batch);
  const Runtime<T>* runtime = ctx_.runtime;
  ctx_.out.task(spec, {packed}, {received}, [=](TaskContext& c) {
    const std::vector<std::int64_t> counts(static_cast<std::size_t>(ranks), block);
    runtime->comms->heads().all_to_all_v(comm::as_buffer(c.arena.get<T>(packed), count), counts,
                                         comm::as_buffer(c.arena.get<T>(received), count), counts, c.stream);
  });
}

template <class T>
BufferId AttentionCore<T>::received_buffer(const Unit& unit, std::int64_t width) const {
  return ctx_.buffer("exchange recv", core_rows(unit) * width, MemoryClass::kCommunication);
}

template <class T>
CoreTensors AttentionCore<T>::exchange_heads(const Unit& unit, Phase phase, BufferId qkv) const {
  const std::int64_t local = unit.rows, rows = core_rows(unit), width = split_.width();
  const BufferId packed = ctx_.buffer("exchange send", rows * width, MemoryClass::kCommunication);
  ctx_.out.task(copy_task(unit, phase, "pack heads", rows * width), {qkv}, {packed},
                [=, split = split_, stride = local_tensors(qkv).q.stride](TaskContext& c) {
                  pack_heads<T>(c.stream, {c.arena.get<T>(packed), rows, width},
                                Matrix<const T>(c.arena.get<T>(qkv), local, stride), split);
                });
  const CoreTensors in = core_tensors(unit);
  const bool direct = is_ordered(unit) && !circulates();
  const BufferId received = direct ? in.q.buffer : received_buffer(unit, width);
  emit_exchange(unit, phase, "q, k, v", packed, received, width);
  if (direct) return in;
  ctx_.out.task(copy_task(unit, phase, "order rows", rows * width), {received}, {in.q.buffer, in.other_buffer()},
                [=, split = split_, order = order_of(unit)](TaskContext& c) {
                  const std::int64_t q = split.q_width(), kv = split.kv_width();
                  const Matrix<const T> from(c.arena.get<T>(received), rows, width);
                  to_core_order<T>(c.stream, columns<T>(c, in.q, rows, q), from.col_range(0, q), order);
                  to_core_order<T>(c.stream, columns<T>(c, in.k, rows, kv), from.col_range(q, kv), order);
                  to_core_order<T>(c.stream, columns<T>(c, in.v, rows, kv), from.col_range(q + kv, kv), order);
                });
  return in;
}

template <class T>
BufferId AttentionCore<T>::return_context(const Unit& unit, Phase phase, BufferId core_context) const {
  const std::int64_t local = unit.rows, rows = core_rows(unit), width = split_.q_width();
  BufferId packed = core_context;
  if (!is_ordered(unit)) {
    packed = ctx_.buffer("exchange send", rows * width, MemoryClass::kCommunication);
    ctx_.out.task(copy_task(unit, phase, "pack context", rows * width), {core_context}, {packed},
                  [=, order = order_of(unit)](TaskContext& c) {
                    from_core_order<T>(c.stream, {c.arena.get<T>(packed), rows, width},
                                       Matrix<const T>(c.arena.get<T>(core_context), rows, width), order);
                  });
  }
  const BufferId received = received_buffer(unit, width);
  emit_exchange(unit, phase, "context", packed, received, width);
  const BufferId context = ctx_.buffer("attention context", rows * width);
  ctx_.out.task(copy_task(unit, phase, "unpack context", rows * width), {received}, {context},
                [=, split = split_](TaskContext& c) {
                  unpack_context<T>(c.stream, {c.arena.get<T>(context), local, split.num_ranks * width},
                                    Matrix<const T>(c.arena.get<T>(received), rows, width), split);
                });
  return context;
}

template <class T>
BufferId AttentionCore<T>::exchange_context_gradient(const Unit& unit, BufferId d_context) const {
  const std::int64_t local = unit.rows, rows = core_rows(unit), width = split_.q_width();
  const BufferId packed = ctx_.buffer("exchange send", rows * width, MemoryClass::kCommunication);
  ctx_.out.task(copy_task(unit, Phase::kBackward, "pack d context", rows * width), {d_context}, {packed},
                [=, split = split_](TaskContext& c) {
                  pack_context<T>(c.stream, {c.arena.get<T>(packed), rows, width},
                                  Matrix<const T>(c.arena.get<T>(d_context), local, split.num_ranks * width), split);
                });
  const BufferId received = received_buffer(unit, width);
  emit_exchange(unit, Phase::kBackward, "d context", packed, received, width);
  if (is_ordered(unit)) return received;
  const BufferId core = ctx_.buffer("d attention context", rows * width);
  ctx_.out.task(copy_task(unit, Phase::kBackward, "order rows", rows * width), {received}, {core},
                [=, order = order_of(unit)](TaskContext& c) {
                  to_core_order<T>(c.stream, {c.arena.get<T>(core), rows, width},
                                   Matrix<const T>(c.arena.get<T>(received), rows, width), order);
                });
  return core;
}

template <class T>
BufferId AttentionCore<T>::return_gradients(const Unit& unit, const CoreTensors& d) const {
  const std::int64_t local = unit.rows, rows = core_rows(unit), width = split_.width();
  BufferId packed = d.q.buffer;
  if (!is_ordered(unit) || circulates()) {
    packed = ctx_.buffer("exchange send", rows * width, MemoryClass::kCommunication);
    ctx_.out.task(copy_task(unit, Phase::kBackward, "pack gradients", rows * width), {d.q.buffer, d.other_buffer()},
                  {packed}, [=, split = split_, order = order_of(unit)](TaskContext& c) {
                    const std::int64_t q = split.q_width(), kv = split.kv_width();
                    const Matrix<T> to(c.arena.get<T>(packed), rows, width);
                    from_core_order<T>(c.stream, to.col_range(0, q), columns<T>(c, d.q, rows, q), order);
                    from_core_order<T>(c.stream, to.col_range(q, kv), columns<T>(c, d.k, rows, kv), order);
                    from_core_order<T>(c.stream, to.col_range(q + kv, kv), columns<T>(c, d.v, rows, kv), order);
                  });
  }
  const BufferId received = received_buffer(unit, width);
  emit_exchange(unit, Phase::kBackward, "dq, dk, dv", packed, received, width);
  const std::int64_t stride = local_tensors(received).q.stride;
  const BufferId d_qkv = ctx_.buffer("d qkv", local * stride);
  ctx_.out.task(copy_task(unit, Phase::kBackward, "unpack gradients", rows * width), {received}, {d_qkv},
                [=, split = split_](TaskContext& c) {
                  unpack_head_gradients<T>(c.stream, {c.arena.get<T>(d_qkv), local, stride},
                                           Matrix<const T>(c.arena.get<T>(received), rows, width), split);
                });
  return d_qkv;
}

#define WEFT_INSTANTIATE(T)                                                                                        \
  template void AttentionCore<T>::emit_exchange(const Unit&, Phase, const char*, BufferId, BufferId, std::int64_t) \
      const;                                                                                                       \
  template BufferId AttentionCore<T>::received_buffer(const Unit&, std::int64_t) const;                            \
  template CoreTensors AttentionCore<T>::exchange_heads(const Unit&, Phase, BufferId) const;                       \
  template BufferId AttentionCore<T>::return_context(const Unit&, Phase, BufferId) const;                          \
  template BufferId AttentionCore<T>::exchange_context_gradient(const Unit&, BufferId) const;                      \
  template BufferId AttentionCore<T>::return_gradients(const Unit&, const CoreTensors&) const;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
