// parallel/step/moe_block_rows.cpp - the rows of moe_block.h on their way: order, hops, i-order, and the hooks between.
#include <tuple>

#include "parallel/step/moe_block.h"

namespace weft::parallel {

template <class T>
struct MoeBlock<T>::ViewSource {
  TableShape shape;
  RoutingForm form = RoutingForm::kTokenList;
  std::int64_t begin = 0, end = 0, group_rows = 1, unit_rows = 0;
  ChunkRange chunk;
  bool first = true;
  RowTables tables;
  std::int64_t first_token = 0;  ///< Of the chunk in tables.token.
  BufferId source = kNoBuffer, weight = kNoBuffer, mix = kNoBuffer;

  /// [D, K] of a list, [T, E * C] of a matrix.
  template <class U>
  [[nodiscard]] Matrix<U> weights(U* data) const {
    if (form == RoutingForm::kSlotMatrix) return {data, unit_rows, shape.width * shape.group_rows};
    return {data, shape.rows, shape.width};
  }
  [[nodiscard]] RoutingView<T> view(const TaskContext& c) const {
    RoutingView<T> out;
    out.shape = shape;
    out.begin = begin;
    out.end = end;
    out.row = {c.arena.get<std::int32_t>(tables.row), shape.rows, shape.width};
    out.token = c.arena.get<std::int32_t>(tables.token) + first_token;
    if (source != kNoBuffer) out.source = {c.arena.get<std::int32_t>(source), shape.rows, shape.width};
    if (form == RoutingForm::kSlotMatrix) {
      out.combine = weights<const T>(c.arena.get<T>(weight));
      out.mix = weights<const T>(c.arena.get<T>(mix));
    } else {
      out.weight = weights<const Wide<T>>(c.arena.get<Wide<T>>(weight));
    }
    out.group_rows = group_rows;
    out.chunk = chunk;
    out.first = first;
    return out;
  }
};

template <class T>
auto MoeBlock<T>::view_source(const Scope& s, const RowTables& tables) const -> ViewSource {
  ViewSource out;
  out.shape = gate_.gate().table(s.unit.rows);
  out.form = gate_.needs().form;
  out.begin = s.begin;
  out.end = s.end;
  out.chunk = {s.begin, s.end - s.begin};
  out.group_rows = gate_.group_rows();
  out.unit_rows = s.unit.rows;
  out.first = s.index == 0;
  out.tables = tables;
  out.first_token = s.begin * out.shape.width;
  out.source = s.saved.gate[kGateSource];
  out.weight = s.saved.gate[kGateWeight];
  out.mix = s.saved.gate[kGateMix];
  return out;
}

template <class T>
void MoeBlock<T>::add_routing(BufferList& reads, const MoeSaved& saved, const RowTables& tables) const {
  for (const BufferId id :
       {tables.row, tables.token, saved.gate[kGateSource], saved.gate[kGateWeight], saved.gate[kGateMix]})
    reads.add(id);
}

template <class T>
void MoeBlock<T>::emit_order(const Scope& s, BufferId rows) const {
  const std::int64_t width = ctx_.width();
  BufferList reads{s.saved.normed};
  add_routing(reads, s.saved, s.saved.forward);
  ctx_.out.task(
      chunk_task(Stage::kOrder, s, WorkKind::kMemory, 2.0 * double(entries(s) * width) * sizeof(T)), reads, {rows},
      [=, source = view_source(s, s.saved.forward), order = order_, plan = s.saved.plan, c = s.index,
       normed = s.saved.normed, unit_rows = s.unit.rows](TaskContext& ctx) {
        order->forward(ctx.stream, source.view(ctx), {ctx.arena.get<T>(rows), plan->chunk(false, c).num_order, width},
                       Matrix<const T>(ctx.arena.get<T>(normed), unit_rows, width));
      });
}

template <class T>
void MoeBlock<T>::emit_order_backward(const Scope& s, BufferId d_sent, BufferId d_normed, BufferId d_mix) const {
  const std::int64_t width = ctx_.width(), k = table_width_;
  const bool mixes = d_mix != kNoBuffer;
  BufferList reads{d_sent}, writes{d_normed, d_mix};
  if (mixes) reads.add(s.saved.normed);
  add_routing(reads, s.saved, s.saved.backward);
  ctx_.out.task(
      chunk_task(Stage::kOrder, s, WorkKind::kMemory, double((s.end - s.begin) * (k + 2) * width) * sizeof(T)), reads,
      writes,
      [=, source = view_source(s, s.saved.backward), order = order_, plan = s.saved.plan, c = s.index,
       normed = s.saved.normed, unit_rows = s.unit.rows](TaskContext& ctx) {
        Matrix<const T> x(nullptr, unit_rows, width);
        Matrix<Wide<T>> d_weights;
        if (mixes) {
          x.data = ctx.arena.get<T>(normed);
          d_weights = source.weights(ctx.arena.get<Wide<T>>(d_mix));
        }
        order->backward(ctx.stream, source.view(ctx), {ctx.arena.get<T>(d_normed), unit_rows, width},
                        Matrix<const T>(ctx.arena.get<T>(d_sent), plan->chunk(true, c).num_order, width), x, d_weights);
      });
}

template <class T>
void MoeBlock<T>::emit_i_order(const Scope& s, BufferId rows, BufferId out) const {
  const std::int64_t width = ctx_.width();
  BufferList reads{s.saved.x, rows};
  add_routing(reads, s.saved, s.saved.forward);
  const double bytes = double((entries(s) + 2 * (s.end - s.begin)) * width) * sizeof(T);
  ctx_.out.task(chunk_task(Stage::kIOrder, s, WorkKind::kMemory, bytes), reads, {out},
                [=, source = view_source(s, s.saved.forward), i_order = i_order_, plan = s.saved.plan, c = s.index,
                 residual = s.saved.x, unit_rows = s.unit.rows](TaskContext& ctx) {
                  i_order->forward(ctx.stream, source.view(ctx), {ctx.arena.get<T>(out), unit_rows, width},
                                   Matrix<const T>(ctx.arena.get<T>(residual), unit_rows, width),
                                   Matrix<const T>(ctx.arena.get<T>(rows), plan->chunk(false, c).num_order, width));
                });
}

template <class T>
void MoeBlock<T>::emit_i_order_backward(const Scope& s, BufferId d, BufferId d_rows, BufferId d_weight) const {
  struct Part {  // of one forward chunk
    ViewSource source;
    int chunk;
    BufferId rows;
  };
  const std::int64_t width = ctx_.width();
  BufferList reads{d, s.saved.backward.row};
  add_routing(reads, s.saved, s.saved.forward);
  std::vector<Part> parts;
  for (const int f : forward_chunks_of(s.saved, s.index)) {
    Part part{view_source(s, s.saved.forward), f, s.saved.chunks[static_cast<std::size_t>(f)].rows};
    part.source.chunk = {s.saved.forward_cuts[static_cast<std::size_t>(f)], rows_of(s.saved.forward_cuts, f)};
    std::tie(part.source.begin, part.source.end) =
        chunk_overlap(s.saved.forward_cuts, f, s.saved.backward_cuts, s.index);
    reads.add(part.rows);
    parts.push_back(part);
  }
  ctx_.out.task(chunk_task(Stage::kIOrder, s, WorkKind::kMemory, 2.0 * double(entries(s) * width) * sizeof(T)), reads,
                {d_rows, d_weight},
                [=, i_order = i_order_, plan = s.saved.plan, b = s.index, d_row = s.saved.backward.row,
                 d_chunk = ChunkRange{s.begin, s.end - s.begin}, unit_rows = s.unit.rows](TaskContext& ctx) {
                  for (const Part& part : parts) {
                    const RoutingView<T> view = part.source.view(ctx);
                    const IOrderGradient<T> gradient{
                        {ctx.arena.get<T>(d_rows), plan->chunk(true, b).num_order, width},
                        part.source.weights(ctx.arena.get<Wide<T>>(d_weight)),
                        {ctx.arena.get<std::int32_t>(d_row), view.shape.rows, view.shape.width},
                        d_chunk};
                    i_order->backward(
                        ctx.stream, view, gradient, Matrix<const T>(ctx.arena.get<T>(d), unit_rows, width),
                        Matrix<const T>(ctx.arena.get<T>(part.rows), plan->chunk(false, part.chunk).num_order, width));
                  }
                });
}

template <class T>
void MoeBlock<T>::emit_hops(const Scope& s, const Hops<T>& hops, BufferId from, BufferId to) const {
  const std::int64_t width = ctx_.width();
  for (std::size_t i = 0; i < hops.size(); ++i) {
    const HopInfo& info = hops[i]->info();
    const BufferId target =
        i + 1 == hops.size() ? to : hop_rows("rows between hops", s, info, width, MemoryClass::kCommunication);
    TaskSpec spec = chunk_task(info.stage, s, info.kind, info.wire_rows * sent_entries(s) * double(width) * sizeof(T));
    spec.label = info.label;
    spec.resources = info.resources;
    spec.work.operations = info.operations;
    ctx_.out.task(spec, {from, s.saved.forward.row}, {target},
                  [=, hop = hops[i], plan = s.saved.plan, backward = s.backward, c = s.index,
                   runtime = ctx_.runtime](TaskContext& ctx) {
                    const ChunkRows& rows = plan->chunk(backward, c);
                    T* out = ctx.arena.require<T>(ctx.stream, target, hop->rows_out(rows) * width);
                    hop->run(ctx.stream, *runtime->comms, rows, out, ctx.arena.get<T>(from), width);
                  });
    from = target;
  }
}

/// Rows that travel: of this rank's tokens, or of its experts.
template <class T>
void MoeBlock<T>::emit_row_hook(HookPoint point, const Scope& s, BufferId rows, bool on_experts) const {
  if ((ctx_.spec.moe_hooks >> static_cast<unsigned>(point) & 1U) == 0) return;
  TaskSpec spec = chunk_task(on_experts ? Stage::kExpert : Stage::kOrder, s, WorkKind::kMemory,
                             2.0 * double(entries(s) * ctx_.width()) * sizeof(T));
  spec.label = "hook";
  ctx_.out.task(spec, {s.saved.forward.row}, {rows},
                [=, plan = s.saved.plan, backward = s.backward, c = s.index, layer = layer_, width = ctx_.width(),
                 runtime = ctx_.runtime](TaskContext& ctx) {
                  const ChunkRows& chunk = plan->chunk(backward, c);
                  HookCall<T> call{
                      ctx.stream, point,
                      layer,      c,
                      backward,   {ctx.arena.get<T>(rows), on_experts ? chunk.num_rows : chunk.num_order, width}};
                  runtime->hooks->at[static_cast<std::size_t>(point)](call);
                });
}

template <class T>
void MoeBlock<T>::emit_token_hook(HookPoint point, const Scope& s, BufferId tokens) const {
  if ((ctx_.spec.moe_hooks >> static_cast<unsigned>(point) & 1U) == 0) return;
  std::int64_t first = s.begin, count = s.end - s.begin;
  if (gate_.needs().form != RoutingForm::kTokenList) {  // a chunk of slots has no tokens of its own
    if (point == HookPoint::kBeforeMoeStart ? s.index != 0 : !s.last) return;
    first = 0;
    count = s.unit.rows;
  }
  TaskSpec spec = chunk_task(point == HookPoint::kBeforeMoeStart ? Stage::kOrder : Stage::kIOrder, s, WorkKind::kMemory,
                             2.0 * double(count * ctx_.width()) * sizeof(T));
  spec.label = "hook";
  ctx_.out.task(spec, {}, {tokens},
                [=, c = s.index, backward = s.backward, layer = layer_, width = ctx_.width(),
                 runtime = ctx_.runtime](TaskContext& ctx) {
                  HookCall<T> call{ctx.stream, point,    layer,
                                   c,          backward, {ctx.arena.get<T>(tokens) + first * width, count, width}};
                  runtime->hooks->at[static_cast<std::size_t>(point)](call);
                });
}

/// Rows to the experts' ranks in gathered order, or back to send order. Without hops, `from` and `to` are one buffer.
template <class T>
void MoeBlock<T>::emit_exchange(const Scope& s, bool to_experts, BufferId from, BufferId to) const {
  emit_row_hook(to_experts ? HookPoint::kBeforeDispatch : HookPoint::kBeforeCombine, s, from, !to_experts);
  emit_hops(s, to_experts ? to_experts_ : from_experts_, from, to);
  emit_row_hook(to_experts ? HookPoint::kAfterDispatch : HookPoint::kAfterCombine, s, to, to_experts);
}

#define WEFT_INSTANTIATE(T)                                                                           \
  template void MoeBlock<T>::emit_order(const Scope&, BufferId) const;                                \
  template void MoeBlock<T>::emit_order_backward(const Scope&, BufferId, BufferId, BufferId) const;   \
  template void MoeBlock<T>::emit_i_order(const Scope&, BufferId, BufferId) const;                    \
  template void MoeBlock<T>::emit_i_order_backward(const Scope&, BufferId, BufferId, BufferId) const; \
  template void MoeBlock<T>::emit_token_hook(HookPoint, const Scope&, BufferId) const;                \
  template void MoeBlock<T>::emit_exchange(const Scope&, bool, BufferId, BufferId) const;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
