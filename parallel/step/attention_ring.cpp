// parallel/step/attention_ring.cpp - the ring as tasks: each hop is a task of its own with a buffer of its own, so that
// it runs while the block before it is computed.
#include "comm/communicator.h"
#include "comm/cost.h"
#include "kernels/reduce.h"
#include "parallel/step/attention_core.h"

namespace weft::parallel {

using kernels::Accumulate;

template <class T>
TaskSpec AttentionCore<T>::ring_task(const Unit& unit, Phase phase, int step, double flops_per_pair) const {
  const double pairs = (*steps_)[static_cast<std::size_t>(step)].pairs * static_cast<double>(sequences(unit));
  TaskSpec spec = compute_task(Stage::kAttention, phase, "core", layer_, unit, WorkKind::kAttention,
                               flops_per_pair * pairs * static_cast<double>(split_.q_width()));
  if (circulates()) {
    spec.chunk = static_cast<std::int16_t>(step);
    spec.work.operations = static_cast<double>(sequences(unit));  // a tile of each: their rows lie apart
  }
  return spec;
}

/// Sends `from` to the next rank of the ring and receives `to` from the one before: [R, 2 Hkv d] of U.
template <class T>
template <class U>
void AttentionCore<T>::emit_hop(const Unit& unit, Phase phase, const char* label, int step, BufferId from,
                                BufferId to) const {
  const int size = ctx_.mesh.sequence_ring;
  const std::int64_t count = core_rows(unit) * 2 * split_.kv_width();
  TaskSpec spec = comm_task(
      Stage::kSequenceRing, phase, label, layer_, group_links(ctx_.mesh, size, ctx_.mesh.sequence_heads),
      WorkKind::kSendRecv, comm::wire_bytes(comm::Collective::kSendRecv, size, static_cast<double>(count) * sizeof(U)));
  spec.micro_batch = static_cast<std::int16_t>(unit.micro_batch);
  spec.sub_batch = static_cast<std::int16_t>(unit.sub_batch);
  spec.chunk = static_cast<std::int16_t>(step);
  const Runtime<T>* runtime = ctx_.runtime;
  ctx_.out.task(spec, {from}, {to}, [=, rank = ctx_.mesh.ring_rank()](TaskContext& c) {
    const comm::SendOp send{comm::as_buffer(static_cast<const U*>(c.arena.get<U>(from)), count), (rank + 1) % size};
    const comm::RecvOp recv{comm::as_buffer(c.arena.get<U>(to), count), (rank + size - 1) % size};
    runtime->comms->ring().send_recv({&send, 1}, {&recv, 1}, c.stream);
  });
}

/// Parts are merged in F32 at least, and rounded once behind the last step.
template <class T>
void AttentionCore<T>::emit_ring_forward(const Unit& unit, Phase phase, const CoreSaved& s) const {
  const std::int64_t rows = core_rows(unit), q_width = split_.q_width(), kv = split_.kv_width();
  const int size = ctx_.mesh.sequence_ring;
  const BufferId merged =
      kNarrows ? ctx_.template buffer<Wide<T>>("ring context", rows * q_width, MemoryClass::kWorkspace) : s.context;
  BufferId message = s.in.k.buffer;
  for (int step = 0; step < size; ++step) {
    const bool first = step == 0, last = step + 1 == size;
    const BufferId next = last ? kNoBuffer : ctx_.buffer("ring k and v", rows * 2 * kv, MemoryClass::kCommunication);
    if (!last) emit_hop<T>(unit, phase, "k and v", step, message, next);
    const BufferId part =
        first && !kNarrows ? kNoBuffer : ctx_.buffer("ring part", rows * q_width, MemoryClass::kWorkspace);
    const BufferId part_lse =
        first ? kNoBuffer : ctx_.template buffer<Wide<T>>("ring part", rows * split_.heads, MemoryClass::kWorkspace);
    BufferList writes{merged, s.lse, part, part_lse};
    if (kNarrows && last) writes.add(s.context);
    ctx_.out.task(ring_task(unit, phase, step, kForwardFlops), {s.in.q.buffer, message}, writes,
                  [=, steps = steps_, at = rows_of(unit), shape = shape_, rank = ctx_.mesh.ring_rank(),
                   n = sequences(unit)](TaskContext& c) {
                    const RingStep& this_step = (*steps)[static_cast<std::size_t>(step)];
                    const Matrix<Wide<T>> out(c.arena.get<Wide<T>>(merged), rows, q_width);
                    const auto lse_at = [&](BufferId id) {
                      return Matrix<Wide<T>>(id == kNoBuffer ? nullptr : c.arena.get<Wide<T>>(id), rows,
                                             shape.num_heads);
                    };
                    const Matrix<const T> keys(c.arena.get<T>(message), rows, 2 * kv);
                    ring_forward<T>(c.stream,
                                    {out,
                                     lse_at(s.lse),
                                     {part == kNoBuffer ? nullptr : c.arena.get<T>(part), rows, q_width},
                                     lse_at(part_lse)},
                                    {columns<T>(c, s.in.q, rows, q_width), keys.col_range(0, kv),
                                     keys.col_range(kv, kv), at.of(rank), at.of(this_step.source)},
                                    shape, {&this_step, n, rows / n, first});
                    if (kNarrows && last) kernels::narrow<T>(c.stream, {c.arena.get<T>(s.context), rows, q_width}, out);
                  });
    message = next;
  }
}

/// One block: its part of dq is added to dq.sum, and goes to dq.whole behind the last step; its part of the keys' and
/// values' gradients goes to `d_message`.
template <class T>
void AttentionCore<T>::emit_ring_block_backward(const Unit& unit, const CoreSaved& s, BufferId d_context,
                                                const QueryGradient& dq, BufferId d_message, int step) const {
  const std::int64_t rows = core_rows(unit), q_width = split_.q_width(), kv = split_.kv_width();
  const BufferId message = s.in.k.buffer;
  const BufferId dq_part = kNarrows ? ctx_.buffer("ring dq", rows * q_width, MemoryClass::kWorkspace) : kNoBuffer;
  const bool last = step + 1 == ctx_.mesh.sequence_ring;
  BufferList writes{dq_part, dq.sum, d_message};
  if (!kNarrows || last) writes.add(dq.whole.buffer);
  ctx_.out.task(ring_task(unit, Phase::kBackward, step, kBackwardFlops),
                {d_context, s.in.q.buffer, message, s.context, s.lse}, writes,
                [=, steps = steps_, at = rows_of(unit), shape = shape_, rank = ctx_.mesh.ring_rank(),
                 n = sequences(unit)](TaskContext& c) {
                  const RingStep& this_step = (*steps)[static_cast<std::size_t>(step)];
                  const Matrix<const T> keys(c.arena.get<T>(message), rows, 2 * kv);
                  const Matrix<T> d_keys(c.arena.get<T>(d_message), rows, 2 * kv);
                  const Matrix<T> part = kNarrows ? Matrix<T>(c.arena.get<T>(dq_part), rows, q_width)
                                                  : columns<T>(c, dq.whole, rows, q_width);
                  if (step > 0) {  // not all rows meet in it
                    kernels::fill<T>(c.stream, d_keys.data, rows * 2 * kv, Wide<T>(0));
                    if (kNarrows) kernels::fill<T>(c.stream, part.data, rows * q_width, Wide<T>(0));
                  }
                  ring_backward<T>(c.stream, {part, d_keys.col_range(0, kv), d_keys.col_range(kv, kv)},
                                   {Matrix<const T>(c.arena.get<T>(d_context), rows, q_width),
                                    Matrix<const T>(c.arena.get<T>(s.context), rows, q_width),
                                    Matrix<const Wide<T>>(c.arena.get<Wide<T>>(s.lse), rows, shape.num_heads)},
                                   {columns<T>(c, s.in.q, rows, q_width), keys.col_range(0, kv), keys.col_range(kv, kv),
                                    at.of(rank), at.of(this_step.source)},
                                   shape, {&this_step, n, rows / n, step == 0});
                  if (!kNarrows) return;
                  const Matrix<Wide<T>> sum(c.arena.get<Wide<T>>(dq.sum), rows, q_width);
                  kernels::widen<T>(c.stream, sum, part, step == 0 ? Accumulate::kOverwrite : Accumulate::kAdd);
                  if (last) kernels::narrow<T>(c.stream, columns<T>(c, dq.whole, rows, q_width), sum);
                });
}

/// Keys and values go round once more. The gradient of a rank's keys travels one hop behind them, in F32 at least,
/// taking up each rank's part, and after as many hops as there are ranks it is where they belong: d.k and d.v.
template <class T>
void AttentionCore<T>::emit_ring_backward(const Unit& unit, const CoreSaved& saved, BufferId d_context,
                                          CoreTensors& d) const {
  const std::int64_t kv = split_.kv_width(), count = core_rows(unit) * 2 * kv;
  const int size = ctx_.mesh.sequence_ring;
  const auto message_buffer = [&](const char* label) { return ctx_.buffer(label, count, MemoryClass::kCommunication); };
  const auto sum_buffer = [&](const char* label) {
    return ctx_.template buffer<Wide<T>>(label, count, MemoryClass::kCommunication);
  };
  const BufferId final_gradient = d.k.buffer != d.q.buffer ? d.k.buffer : message_buffer("dk and dv");
  const QueryGradient dq{d.q, kNarrows ? ctx_.template buffer<Wide<T>>(
                                             "ring dq sum", core_rows(unit) * split_.q_width(), MemoryClass::kWorkspace)
                                       : kNoBuffer};
  CoreSaved here = saved;
  BufferId travelling = kNoBuffer;
  for (int step = 0; step < size; ++step) {
    const bool last = step + 1 == size;
    const BufferId next = last ? kNoBuffer : message_buffer("ring k and v");
    if (!last) emit_hop<T>(unit, Phase::kBackward, "k and v", step, here.in.k.buffer, next);
    const BufferId part = message_buffer("ring dk and dv");
    emit_ring_block_backward(unit, here, d_context, dq, part, step);
    const BufferId sum = !kNarrows ? part : step == 0 ? sum_buffer("ring dk and dv") : travelling;  // added in place
    if (kNarrows || step > 0)
      ctx_.out.task(copy_task(unit, Phase::kBackward, "add dk and dv", kWideCopies * count),
                    {kNarrows ? part : travelling}, {sum}, [=](TaskContext& c) {
                      const Matrix<Wide<T>> to(c.arena.get<Wide<T>>(sum), 1, count);
                      const Matrix<const T> from(c.arena.get<T>(kNarrows ? part : travelling), 1, count);
                      kernels::widen<T>(c.stream, to, from,
                                        kNarrows && step == 0 ? Accumulate::kOverwrite : Accumulate::kAdd);
                    });
    travelling = last && !kNarrows ? final_gradient : sum_buffer("ring dk and dv");
    emit_hop<Wide<T>>(unit, Phase::kBackward, "dk and dv", step, sum, travelling);
    here.in.k.buffer = next;
  }
  if (kNarrows)
    ctx_.out.task(copy_task(unit, Phase::kBackward, "round dk and dv", kWideCopies * count), {travelling},
                  {final_gradient}, [=](TaskContext& c) {
                    kernels::narrow<T>(c.stream, {c.arena.get<T>(final_gradient), 1, count},
                                       Matrix<const Wide<T>>(c.arena.get<Wide<T>>(travelling), 1, count));
                  });
  d.k = {final_gradient, 2 * kv, 0};
  d.v = {final_gradient, 2 * kv, kv};
}

#define WEFT_INSTANTIATE(T)                                                                            \
  template TaskSpec AttentionCore<T>::ring_task(const Unit&, Phase, int, double) const;                \
  template void AttentionCore<T>::emit_ring_forward(const Unit&, Phase, const CoreSaved&) const;       \
  template void AttentionCore<T>::emit_ring_block_backward(const Unit&, const CoreSaved&, BufferId,    \
                                                           const QueryGradient&, BufferId, int) const; \
  template void AttentionCore<T>::emit_ring_backward(const Unit&, const CoreSaved&, BufferId, CoreTensors&) const;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
