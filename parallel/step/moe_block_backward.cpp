// parallel/step/moe_block_backward.cpp - the backward half of moe_block.h.
#include "kernels/dispatch.h"
#include "parallel/step/moe_block.h"

namespace weft::parallel {

using kernels::Accumulate;

namespace {

/// Rows of the forward chunks, brought into the order of backward chunk `b`.
template <class T>
void regroup(TaskContext& ctx, const DispatchPlan& plan, int b, const std::vector<int>& sources,
             const std::vector<BufferId>& from, Matrix<T> to) {
  for (std::size_t i = 0; i < sources.size(); ++i)
    kernels::copy_blocks<T>(ctx.stream, to,
                            Matrix<const T>(ctx.arena.get<T>(from[i]), plan.chunk(false, sources[i]).num_rows, to.cols),
                            plan.forward_to_backward(sources[i], b));
}

}  // namespace

std::vector<int> forward_chunks_of(const MoeSaved& s, int b) {
  std::vector<int> out;
  for (int f = 0; f + 1 < static_cast<int>(s.forward_cuts.size()); ++f)
    if (const auto [begin, end] = chunk_overlap(s.forward_cuts, f, s.backward_cuts, b); begin < end) out.push_back(f);
  return out;
}

template <class T>
auto MoeBlock<T>::emit_expert_backward(const Scope& scope, BufferId gathered, BufferId d_input) const -> ChunkBackward {
  const MoeSaved& s = scope.saved;
  const int b = scope.index;
  const std::int64_t width = ctx_.width(), pre_width = expert_->pre_width(), hidden_width = expert_->hidden_width();
  const std::vector<int> sources = forward_chunks_of(s, b);
  const bool same = s.forward_cuts == s.backward_cuts, keeps_hidden = s.chunks.front().hidden != kNoBuffer;
  const bool fused = ctx_.shape.layers[layer_].weight_grad_pieces == 0, reorder = reorders();
  const auto index = static_cast<std::size_t>(b);
  ChunkBackward out{};
  out.input = same ? s.chunks[index].input : expert_rows("expert input, backward chunk", scope, width);
  out.d_pre = same ? s.chunks[index].pre : expert_rows("expert pre-activation, backward chunk", scope, pre_width);
  out.hidden = same && keeps_hidden ? s.chunks[index].hidden : expert_rows("expert hidden, again", scope, hidden_width);
  out.d_output = reorder ? expert_rows("d expert output", scope, width) : gathered;
  const BufferId d_hidden = expert_rows("d expert hidden", scope, hidden_width, MemoryClass::kWorkspace);
  const BufferId d_rows = reorder ? expert_rows("d expert input", scope, width, MemoryClass::kWorkspace) : d_input;

  BufferList reads{gathered, s.backward.row, ctx_.weights(expert_bucket_)};
  BufferList writes{out.d_pre, d_hidden, d_rows, d_input};
  std::vector<BufferId> inputs, pres;
  for (const int f : sources) {
    const MoeSaved::Chunk& chunk = s.chunks[static_cast<std::size_t>(f)];
    inputs.push_back(chunk.input);
    pres.push_back(chunk.pre);
    reads.add(chunk.input);
    if (!same) reads.add(chunk.pre);
  }
  if (!same) writes.add(out.input);
  (same && keeps_hidden ? reads : writes).add(out.hidden);
  if (reorder) writes.add(out.d_output);
  if (fused) writes.add(ctx_.gradients(expert_bucket_, GradientPart::kWhole));

  const Accumulate accumulate = b == 0 ? accumulate_after_first(scope.unit) : Accumulate::kAdd;
  ctx_.out.task(chunk_task(Stage::kExpert, scope, WorkKind::kGroupedGemm, (fused ? 2.0 : 1.0) * expert_flops(scope)),
                reads, writes, [=, plan = s.plan, expert = expert_](TaskContext& ctx) {
                  const ChunkRows& rows = plan->chunk(true, b);
                  const std::int64_t n = rows.num_rows;
                  const auto fill = [&](BufferId id, std::int64_t cols) {
                    return Matrix<T>(ctx.arena.require<T>(ctx.stream, id, n * cols), n, cols);
                  };
                  Matrix<T> x(ctx.arena.get<T>(out.input), n, width), pre(ctx.arena.get<T>(out.d_pre), n, pre_width);
                  Matrix<T> hidden(ctx.arena.get<T>(out.hidden), n, hidden_width);
                  Matrix<T> dy(ctx.arena.get<T>(out.d_output), n, width);
                  if (!same) {
                    regroup<T>(ctx, *plan, b, sources, inputs, x = fill(out.input, width));
                    regroup<T>(ctx, *plan, b, sources, pres, pre = fill(out.d_pre, pre_width));
                  }
                  if (!(same && keeps_hidden))
                    expert->activate(ctx.stream, hidden = fill(out.hidden, hidden_width), pre);
                  if (reorder)
                    kernels::copy_blocks<T>(ctx.stream, dy = fill(out.d_output, width),
                                            Matrix<const T>(ctx.arena.get<T>(gathered), n, width), rows.to_experts);
                  const Matrix<T> dx = fill(d_rows, width);
                  expert->backward_input(ctx.stream, rows.expert_offsets, dx, pre, fill(d_hidden, hidden_width), dy);
                  if (fused) expert->backward_weight(ctx.stream, rows.expert_offsets, {dy, pre, x, hidden}, accumulate);
                  if (reorder) kernels::copy_blocks<T>(ctx.stream, fill(d_input, width), dx, rows.from_experts);
                });
  return out;
}

template <class T>
void MoeBlock<T>::emit_expert_dw(const Unit& unit, const MoeSaved& s, int piece, int first_chunk,
                                 std::span<const ChunkBackward> chunks) const {
  Scope range = scope(unit, s, Phase::kBackward, true, first_chunk);
  range.end = s.backward_cuts[static_cast<std::size_t>(first_chunk) + chunks.size()];
  range.index = piece;
  TaskSpec spec = chunk_task(Stage::kExpertDw, range, WorkKind::kGroupedGemm, expert_flops(range));
  spec.work.operations = static_cast<double>(chunks.size());  // a grouped GEMM per chunk: their rows lie apart
  BufferList reads{s.backward.row};
  for (const ChunkBackward& chunk : chunks)
    for (const BufferId id : {chunk.d_output, chunk.d_pre, chunk.input, chunk.hidden}) reads.add(id);
  const Accumulate first = first_chunk == 0 ? accumulate_after_first(unit) : Accumulate::kAdd;
  ctx_.out.task(spec, reads, {ctx_.gradients(expert_bucket_, GradientPart::kWhole)},
                [=, plan = s.plan, expert = expert_, width = ctx_.width(),
                 pieces = std::vector<ChunkBackward>(chunks.begin(), chunks.end())](TaskContext& ctx) {
                  for (std::size_t i = 0; i < pieces.size(); ++i) {
                    const ChunkRows& rows = plan->chunk(true, first_chunk + static_cast<int>(i));
                    const auto read = [&](BufferId id, std::int64_t cols) {
                      return Matrix<const T>(ctx.arena.get<T>(id), rows.num_rows, cols);
                    };
                    expert->backward_weight(
                        ctx.stream, rows.expert_offsets,
                        {read(pieces[i].d_output, width), read(pieces[i].d_pre, expert->pre_width()),
                         read(pieces[i].input, width), read(pieces[i].hidden, expert->hidden_width())},
                        i == 0 ? first : Accumulate::kAdd);
                  }
                });
}

template <class T>
void MoeBlock<T>::backward(const Unit& unit, const MoeSaved& saved, BufferId d,
                           const std::shared_ptr<PooledBalance>& pooled) const {
  MoeSaved s = saved;
  const std::int64_t rows = unit.rows, width = ctx_.width();
  const int chunks = static_cast<int>(s.backward_cuts.size()) - 1;
  const bool mixes = gate_.needs().form == RoutingForm::kSlotMatrix;
  if (s.normed == kNoBuffer) {
    s.normed = ctx_.buffer("ffn norm", rows * width);
    emit_norm(unit, Phase::kBackward, s);
  }
  const TableShape table = gate_.gate().table(rows);
  const std::int64_t weights = table.width * (mixes ? table.group_rows * rows : table.rows);
  GateGradients gradients{ctx_.template buffer<Wide<T>>("d router weight", weights), kNoBuffer};
  if (mixes) gradients.d_mix = ctx_.template buffer<Wide<T>>("d router mix", weights);
  const BufferId d_normed = ctx_.buffer("d ffn norm", rows * width);
  const MemoryClass memory = has_hops() ? MemoryClass::kCommunication : MemoryClass::kActivations;
  std::vector<BufferId> d_rows, d_sent;
  for (int b = 0; b < chunks; ++b) {
    const Scope at = scope(unit, s, Phase::kBackward, true, b);
    d_rows.push_back(ctx_.buffer("d combined rows", entries(at) * width, memory));
    d_sent.push_back(ctx_.buffer("d dispatched rows", entries(at) * width, memory));
    emit_token_hook(HookPoint::kBeforeMoeStart, at, d);
    emit_i_order_backward(at, d, d_rows.back(), gradients.d_weight);
  }
  if (!mixes) gate_.backward(unit, s.normed, s.gate, gradients, d_normed, Accumulate::kOverwrite, pooled);

  std::vector<ChunkBackward> deferred;
  for (int b = 0; b < chunks; ++b) {
    const Scope at = scope(unit, s, Phase::kBackward, true, b);
    BufferId gathered = d_rows[static_cast<std::size_t>(b)], d_input = d_sent[static_cast<std::size_t>(b)];
    if (has_hops()) {
      gathered = expert_rows("d gathered rows", at, width, MemoryClass::kCommunication);
      d_input = expert_rows("d expert input, gathered", at, width, MemoryClass::kCommunication);
    }
    emit_exchange(at, true, d_rows[static_cast<std::size_t>(b)], gathered);
    deferred.push_back(emit_expert_backward(at, gathered, d_input));
    emit_exchange(at, false, d_input, d_sent[static_cast<std::size_t>(b)]);
    emit_order_backward(at, d_sent[static_cast<std::size_t>(b)], d_normed, gradients.d_mix);
    emit_token_hook(HookPoint::kBeforeMoeEnd, at, d_normed);
  }
  // A mixture's weights have their gradients only now; the first chunk's Order has set d_normed to zero.
  if (mixes) gate_.backward(unit, s.normed, s.gate, gradients, d_normed, Accumulate::kAdd, pooled);
  ctx_.out.task(
      compute_task(Stage::kNorm, Phase::kBackward, "ffn", layer_, unit, WorkKind::kMemory,
                   4.0 * static_cast<double>(rows * width) * sizeof(T)),
      {d_normed, s.x, s.statistics, ctx_.weights(dense_bucket_)},
      {d, ctx_.gradients(dense_bucket_, GradientPart::kFeedForward)},
      [=, x = s.x, statistics = s.statistics, norm = norm_, accumulate = accumulate_after_first(unit)](TaskContext& c) {
        norm.backward(c.stream, {c.arena.get<T>(d), rows, width},
                      Matrix<const T>(c.arena.get<T>(d_normed), rows, width),
                      Matrix<const T>(c.arena.get<T>(x), rows, width), c.arena.get<Wide<T>>(statistics), accumulate);
      });
  const std::vector<int> cuts = scheduler::weight_grad_cuts(chunks, ctx_.shape.layers[layer_].weight_grad_pieces);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i)
    emit_expert_dw(unit, s, static_cast<int>(i), cuts[i], std::span(deferred).subspan(cuts[i], cuts[i + 1] - cuts[i]));
}

template void MoeBlock<float>::backward(const Unit&, const MoeSaved&, BufferId,
                                        const std::shared_ptr<PooledBalance>&) const;
template void MoeBlock<double>::backward(const Unit&, const MoeSaved&, BufferId,
                                         const std::shared_ptr<PooledBalance>&) const;
template void MoeBlock<BF16>::backward(const Unit&, const MoeSaved&, BufferId,
                                       const std::shared_ptr<PooledBalance>&) const;

}  // namespace weft::parallel
