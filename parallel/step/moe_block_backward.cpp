// parallel/step/moe_block_backward.cpp - the backward half of moe_block.h.
#include "comm/communicator.h"
#include "kernels/gemm.h"
#include "kernels/permute.h"
#include "parallel/step/feed_forward.h"
#include "parallel/step/moe_block.h"

namespace weft::parallel {

using kernels::Accumulate;

namespace {

std::int64_t tokens_of(const std::vector<std::int64_t>& cuts, int c) {
  return cuts[static_cast<std::size_t>(c) + 1] - cuts[static_cast<std::size_t>(c)];
}

/// Forward chunks that share tokens with backward chunk b.
std::vector<int> forward_chunks_of(const MoeSaved& s, int b) {
  std::vector<int> out;
  for (int f = 0; f + 1 < static_cast<int>(s.forward_cuts.size()); ++f)
    if (const auto [begin, end] = chunk_overlap(s.forward_cuts, f, s.backward_cuts, b); begin < end) out.push_back(f);
  return out;
}

/// dW of both products of a chunk's experts.
template <class T>
void weight_gradients(Stream& stream, const ChunkRows& rows, const kernels::ExpertWeights<T>& d_pre_w,
                      const kernels::ExpertWeights<T>& d_down_w, const std::array<T*, 4>& data, Accumulate accumulate) {
  const std::int64_t n = rows.num_rows, width = d_pre_w.in_width, pre = d_pre_w.out_width, hidden = d_down_w.in_width;
  kernels::grouped_linear_backward_weight<T>(stream, d_down_w, Matrix<const T>(data[0], n, width),
                                             Matrix<const T>(data[3], n, hidden), rows.expert_offsets, accumulate);
  kernels::grouped_linear_backward_weight<T>(stream, d_pre_w, Matrix<const T>(data[1], n, pre),
                                             Matrix<const T>(data[2], n, width), rows.expert_offsets, accumulate);
}

/// Rows of the forward chunks, brought into the order of backward chunk `b`.
template <class T>
void regroup(TaskContext& ctx, const DispatchPlan& plan, int b, const std::vector<int>& sources,
             const std::vector<BufferId>& from, Matrix<T> to) {
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const std::vector<std::int32_t> index = plan.forward_to_backward(sources[i], b);
    const auto n = static_cast<std::int64_t>(index.size());
    kernels::scatter_rows<T>(ctx.stream, to, Matrix<const T>(ctx.arena.get<T>(from[i]), n, to.cols), index.data());
  }
}

}  // namespace

template <class T>
void MoeBlock<T>::emit_i_order_backward(const Unit& unit, const MoeSaved& s, int b, BufferId d, BufferId d_rows,
                                        BufferId d_weight) const {
  const std::int64_t tokens = tokens_of(s.backward_cuts, b), width = ctx_.width(), k = top_k_, unit_rows = unit.rows;
  const double bytes = static_cast<double>(tokens * k * width) * sizeof(T);
  const std::vector<int> sources = forward_chunks_of(s, b);
  BufferList reads{d, s.forward.row, s.backward.row, s.weight};
  for (const int f : sources) reads.add(s.chunks[static_cast<std::size_t>(f)].rows);
  ctx_.out.task(chunk_task(Stage::kIOrder, Phase::kBackward, unit, b, WorkKind::kMemory, 2.0 * bytes), reads,
                {d_rows, d_weight}, [=](TaskContext& ctx) {
                  const Matrix<T> to(ctx.arena.get<T>(d_rows), s.plan->chunk(true, b).num_send, width);
                  const Matrix<T> dw(ctx.arena.get<T>(d_weight), unit_rows, k);
                  const Matrix<const T> dy(ctx.arena.get<T>(d), unit_rows, width),
                      weight(ctx.arena.get<T>(s.weight), unit_rows, k);
                  const Matrix<const std::int32_t> row(ctx.arena.get<std::int32_t>(s.forward.row), unit_rows, k);
                  const Matrix<const std::int32_t> d_row(ctx.arena.get<std::int32_t>(s.backward.row), unit_rows, k);
                  for (const int f : sources) {
                    const auto [begin, end] = chunk_overlap(s.forward_cuts, f, s.backward_cuts, b);
                    const Matrix<const T> rows(ctx.arena.get<T>(s.chunks[static_cast<std::size_t>(f)].rows),
                                               s.plan->chunk(false, f).num_send, width);
                    kernels::unpermute_weighted_backward<T>(
                        ctx.stream, {to, dw.row_range(begin, end - begin), d_row.row_range(begin, end - begin)},
                        dy.row_range(begin, end - begin), rows, row.row_range(begin, end - begin),
                        weight.row_range(begin, end - begin));
                  }
                });
}

template <class T>
auto MoeBlock<T>::emit_expert_backward(const Unit& unit, const MoeSaved& s, int b, BufferId arrived,
                                       BufferId back) const -> ChunkBackward {
  const std::int64_t tokens = tokens_of(s.backward_cuts, b), width = ctx_.width();
  const std::vector<int> sources = forward_chunks_of(s, b);
  const bool same = s.forward_cuts == s.backward_cuts, keeps_hidden = s.chunks.front().hidden != kNoBuffer;
  const bool fused = ctx_.shape.layers[layer_].weight_grad_pieces == 0, reorder = reorders();
  const auto index = static_cast<std::size_t>(b);
  ChunkBackward out{};
  out.input = same ? s.chunks[index].input : expert_rows("expert input, backward chunk", tokens, width);
  out.d_pre = same ? s.chunks[index].pre : expert_rows("expert pre-activation, backward chunk", tokens, pre_width_);
  out.hidden =
      same && keeps_hidden ? s.chunks[index].hidden : expert_rows("expert hidden, again", tokens, hidden_width_);
  out.d_output = reorder ? expert_rows("d expert output", tokens, width) : arrived;
  const BufferId d_hidden = expert_rows("d expert hidden", tokens, hidden_width_, MemoryClass::kWorkspace);
  const BufferId d_input = reorder ? expert_rows("d expert input", tokens, width, MemoryClass::kWorkspace) : back;

  BufferList reads{arrived, s.backward.row, ctx_.weights(expert_bucket_)};
  BufferList writes{out.d_pre, d_hidden, d_input, back};
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

  const Accumulate accumulate = b == 0 ? accumulate_after_first(unit) : Accumulate::kAdd;
  const double flops = 2.0 * double(ctx_.mesh.esp_size * tokens * top_k_ * width * (pre_width_ + hidden_width_));
  ctx_.out.task(
      chunk_task(Stage::kExpert, Phase::kBackward, unit, b, WorkKind::kGroupedGemm, fused ? 2.0 * flops : flops), reads,
      writes,
      [=, plan = s.plan, hidden_width = hidden_width_, pre_width = pre_width_, pre_w = pre_, down_w = down_,
       d_pre_w = d_pre_, d_down_w = d_down_, family = ctx_.model.family](TaskContext& ctx) {
        const ChunkRows& rows = plan->chunk(true, b);
        const std::int64_t n = rows.num_rows;
        const auto fill = [&](BufferId id, std::int64_t cols) {
          return Matrix<T>(ctx.arena.require<T>(id, n * cols), n, cols);
        };
        Matrix<T> x(ctx.arena.get<T>(out.input), n, width), pre(ctx.arena.get<T>(out.d_pre), n, pre_width);
        Matrix<T> hidden(ctx.arena.get<T>(out.hidden), n, hidden_width), dy(ctx.arena.get<T>(out.d_output), n, width);
        if (!same) {
          regroup<T>(ctx, *plan, b, sources, inputs, x = fill(out.input, width));
          regroup<T>(ctx, *plan, b, sources, pres, pre = fill(out.d_pre, pre_width));
        }
        if (!(same && keeps_hidden)) {
          hidden = fill(out.hidden, hidden_width);
          activation_forward<T>(ctx.stream, family, hidden, pre);
        }
        if (reorder) {
          dy = fill(out.d_output, width);
          kernels::gather_rows<T>(ctx.stream, dy, Matrix<const T>(ctx.arena.get<T>(arrived), n, width),
                                  rows.gathered_of.data());
        }
        const Matrix<T> dh = fill(d_hidden, hidden_width), dx = fill(d_input, width);
        kernels::grouped_linear_backward_input<T>(ctx.stream, dh, dy, down_w, rows.expert_offsets,
                                                  Accumulate::kOverwrite);
        activation_backward<T>(ctx.stream, family, pre, dh, pre);
        kernels::grouped_linear_backward_input<T>(ctx.stream, dx, pre, pre_w, rows.expert_offsets,
                                                  Accumulate::kOverwrite);
        if (fused)
          weight_gradients<T>(ctx.stream, rows, d_pre_w, d_down_w, {dy.data, pre.data, x.data, hidden.data},
                              accumulate);
        if (reorder) kernels::gather_rows<T>(ctx.stream, fill(back, width), dx, rows.expert_of.data());
      });
  return out;
}

template <class T>
void MoeBlock<T>::emit_expert_dw(const Unit& unit, const MoeSaved& s, int piece, int first_chunk,
                                 std::span<const ChunkBackward> chunks) const {
  const int end = first_chunk + static_cast<int>(chunks.size());
  const std::int64_t tokens =
      s.backward_cuts[static_cast<std::size_t>(end)] - s.backward_cuts[static_cast<std::size_t>(first_chunk)];
  const double flops = 2.0 * double(ctx_.mesh.esp_size * tokens * top_k_ * ctx_.width() * (pre_width_ + hidden_width_));
  TaskSpec spec = chunk_task(Stage::kExpertDw, Phase::kBackward, unit, piece, WorkKind::kGroupedGemm, flops);
  spec.work.operations = static_cast<double>(chunks.size());  // a grouped GEMM per chunk: their rows lie apart
  BufferList reads{s.backward.row};
  for (const ChunkBackward& chunk : chunks)
    for (const BufferId id : {chunk.d_output, chunk.d_pre, chunk.input, chunk.hidden}) reads.add(id);
  const Accumulate first = first_chunk == 0 ? accumulate_after_first(unit) : Accumulate::kAdd;
  ctx_.out.task(spec, reads, {ctx_.gradients(expert_bucket_, GradientPart::kWhole)},
                [=, plan = s.plan, d_pre_w = d_pre_, d_down_w = d_down_,
                 pieces = std::vector<ChunkBackward>(chunks.begin(), chunks.end())](TaskContext& ctx) {
                  for (std::size_t i = 0; i < pieces.size(); ++i)
                    weight_gradients<T>(ctx.stream, plan->chunk(true, first_chunk + static_cast<int>(i)), d_pre_w,
                                        d_down_w,
                                        {ctx.arena.get<T>(pieces[i].d_output), ctx.arena.get<T>(pieces[i].d_pre),
                                         ctx.arena.get<T>(pieces[i].input), ctx.arena.get<T>(pieces[i].hidden)},
                                        i == 0 ? first : Accumulate::kAdd);
                });
}

template <class T>
void MoeBlock<T>::emit_gate_backward(const Unit& unit, const MoeSaved& s, BufferId d_weight, BufferId d_normed,
                                     const std::shared_ptr<PooledBalance>& pooled) const {
  const std::int64_t rows = unit.rows, width = ctx_.width(), experts = num_experts_;
  const Runtime<T>* runtime = ctx_.runtime;
  const BufferId d_logits = ctx_.buffer("d router logits", rows * experts, MemoryClass::kWorkspace);
  const Accumulate accumulate = accumulate_after_first(unit);
  ctx_.out.task(compute_task(Stage::kGate, Phase::kBackward, "route", layer_, unit, WorkKind::kGemm,
                             4.0 * double(rows * width * experts)),
                {s.probs, s.lse, s.expert, s.weight, s.fraction, d_weight, s.normed, ctx_.weights(dense_bucket_)},
                {d_logits, d_normed, ctx_.gradients(dense_bucket_, GradientPart::kFeedForward)},
                [=, gate = gate_, w = router_, dims = router_dims()](TaskContext& c) {
                  const Matrix<T> dz(c.arena.get<T>(d_logits), rows, experts);
                  gate.backward(c.stream, dz, routing_of<T>(c, unit, s, dims),
                                Matrix<const T>(c.arena.get<T>(d_weight), rows, dims.top_k), *runtime->state, *pooled);
                  kernels::linear_backward_input<T>(c.stream, {c.arena.get<T>(d_normed), rows, width}, dz,
                                                    Matrix<const T>(w.weight, experts, width), Accumulate::kOverwrite);
                  kernels::linear_backward_weight<T>(c.stream, {w.grad, experts, width}, nullptr, dz,
                                                     Matrix<const T>(c.arena.get<T>(s.normed), rows, width),
                                                     accumulate);
                });
}

template <class T>
void MoeBlock<T>::backward(const Unit& unit, const MoeSaved& saved, BufferId d,
                           const std::shared_ptr<PooledBalance>& pooled) const {
  MoeSaved s = saved;
  const std::int64_t rows = unit.rows, width = ctx_.width(), k = top_k_;
  const Accumulate accumulate = accumulate_after_first(unit);
  const int chunks = static_cast<int>(s.backward_cuts.size()) - 1;
  if (s.normed == kNoBuffer) {
    s.normed = ctx_.buffer("ffn norm", rows * width);
    emit_norm(unit, Phase::kBackward, s);
  }
  const BufferId d_weight = ctx_.buffer("d router weight", rows * k),
                 d_normed = ctx_.buffer("d ffn norm", rows * width);
  std::vector<BufferId> d_rows, d_sent;
  for (int b = 0; b < chunks; ++b) {
    const MemoryClass memory = has_comm() ? MemoryClass::kCommunication : MemoryClass::kActivations;
    d_rows.push_back(ctx_.buffer("d combined rows", tokens_of(s.backward_cuts, b) * k * width, memory));
    d_sent.push_back(ctx_.buffer("d dispatched rows", tokens_of(s.backward_cuts, b) * k * width, memory));
    emit_i_order_backward(unit, s, b, d, d_rows.back(), d_weight);
  }
  emit_gate_backward(unit, s, d_weight, d_normed, pooled);

  std::vector<ChunkBackward> deferred;
  for (int b = 0; b < chunks; ++b) {
    const std::int64_t begin = s.backward_cuts[static_cast<std::size_t>(b)], tokens = tokens_of(s.backward_cuts, b);
    BufferId gathered = d_rows[static_cast<std::size_t>(b)], d_input = d_sent[static_cast<std::size_t>(b)];
    if (has_comm()) {
      gathered = expert_rows("d gathered rows", tokens, width, MemoryClass::kCommunication);
      d_input = expert_rows("d expert input, gathered", tokens, width, MemoryClass::kCommunication);
    }
    const Chunk where{unit, s, Phase::kBackward, true, b, tokens};
    emit_to_experts(where, d_rows[static_cast<std::size_t>(b)], gathered);
    deferred.push_back(emit_expert_backward(unit, s, b, gathered, d_input));
    emit_from_experts(where, d_input, d_sent[static_cast<std::size_t>(b)]);
    ctx_.out.task(chunk_task(Stage::kOrder, Phase::kBackward, unit, b, WorkKind::kMemory,
                             static_cast<double>(tokens * (k + 2) * width) * sizeof(T)),
                  {d_sent[static_cast<std::size_t>(b)], s.backward.row}, {d_normed},
                  [=, from = d_sent[static_cast<std::size_t>(b)]](TaskContext& c) {
                    const Matrix<T> to(c.arena.get<T>(d_normed), rows, width);
                    const Matrix<const std::int32_t> row(c.arena.get<std::int32_t>(s.backward.row), rows, k);
                    kernels::permute_backward<T>(
                        c.stream, to.row_range(begin, tokens),
                        Matrix<const T>(c.arena.get<T>(from), s.plan->chunk(true, b).num_send, width),
                        row.row_range(begin, tokens), Accumulate::kAdd);
                  });
  }
  ctx_.out.task(compute_task(Stage::kNorm, Phase::kBackward, "ffn", layer_, unit, WorkKind::kMemory,
                             4.0 * static_cast<double>(rows * width) * sizeof(T)),
                {d_normed, s.x, s.statistics, ctx_.weights(dense_bucket_)},
                {d, ctx_.gradients(dense_bucket_, GradientPart::kFeedForward)}, [=, norm = norm_](TaskContext& c) {
                  norm.backward(c.stream, {c.arena.get<T>(d), rows, width},
                                Matrix<const T>(c.arena.get<T>(d_normed), rows, width),
                                Matrix<const T>(c.arena.get<T>(s.x), rows, width), c.arena.get<T>(s.statistics),
                                accumulate);
                });
  const std::vector<int> cuts = scheduler::weight_grad_cuts(chunks, ctx_.shape.layers[layer_].weight_grad_pieces);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i)
    emit_expert_dw(unit, s, static_cast<int>(i), cuts[i], std::span(deferred).subspan(cuts[i], cuts[i + 1] - cuts[i]));
}

template void MoeBlock<float>::backward(const Unit&, const MoeSaved&, BufferId,
                                        const std::shared_ptr<PooledBalance>&) const;
template void MoeBlock<double>::backward(const Unit&, const MoeSaved&, BufferId,
                                         const std::shared_ptr<PooledBalance>&) const;

}  // namespace weft::parallel
