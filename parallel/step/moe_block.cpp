// parallel/step/moe_block.cpp - set-up, tables and forward; moe_block_rows.cpp and moe_block_backward.cpp have the
// rest.
#include "parallel/step/moe_block.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/communicator.h"
#include "core/error.h"
#include "kernels/dispatch.h"
#include "parallel/moe/dispatchers/hops.h"
#include "parallel/step/feed_forward.h"

namespace weft::parallel {

using scheduler::Recompute;

namespace {

/// Where the weights of this rank's first expert lie.
template <class T>
ExpertParameters<T> expert_parameters(const StepContext<T>& ctx, int layer) {
  const int experts = ctx.model.moe.experts;
  const std::string prefix = str("layers.", layer, ".moe.experts.", ctx.mesh.first_local_expert(experts), ".");
  const auto bucket = static_cast<std::size_t>(ctx.table.expert_bucket(layer));
  return {ctx.parameter(prefix + (is_gated(ctx.model.family) ? "gate.weight" : "up.weight")),  // up follows gate
          ctx.parameter(prefix + "up.bias"), ctx.parameter(prefix + "down.weight"),
          ctx.parameter(prefix + "down.bias"),  // on ESP rank 0 alone
          ctx.table.buckets()[bucket].count / ctx.mesh.num_local_experts(experts)};
}

}  // namespace

template <class T>
MoeBlock<T>::MoeBlock(const StepContext<T>& ctx, int layer)
    : ctx_(ctx),
      layer_(layer),
      dense_bucket_(ctx.table.dense_bucket(layer)),
      expert_bucket_(ctx.table.expert_bucket(layer)),
      num_experts_(ctx.model.moe.experts),
      num_local_(ctx.mesh.num_local_experts(ctx.model.moe.experts)),
      norm_(ctx, str("layers.", layer, ".ffn_norm")),
      gate_(ctx, layer),
      table_width_(gate_.gate().table(0).width),
      order_(make_order<T>(gate_.needs().form)),
      i_order_(make_i_order<T>(gate_.needs().form)),
      expert_(
          make_expert<T>(ctx.model, ctx.model.expert_hidden_dim / ctx.mesh.esp_size, expert_parameters(ctx, layer))),
      to_experts_(make_dispatch<T>(ctx.spec.dispatcher, ctx.mesh)->hops()),
      from_experts_(make_combine<T>(ctx.spec.dispatcher, ctx.mesh)->hops()) {
  if (!shares_slots()) return;
  const auto links = group_links(ctx.mesh, ctx.mesh.sp_size(), 1);
  const int experts = ctx.model.moe.experts;
  to_experts_.insert(to_experts_.begin(), shared_slot_hop<T>(ctx.mesh, experts, Direction::kToExperts, links));
  from_experts_.push_back(shared_slot_hop<T>(ctx.mesh, experts, Direction::kFromExperts, links));
}

template <class T>
bool MoeBlock<T>::shares_slots() const {
  return gate_.needs().form == RoutingForm::kSlotMatrix && ctx_.spec.geometry.sequence_ranks > 1;
}

template <class T>
auto MoeBlock<T>::scope(const Unit& unit, const MoeSaved& saved, Phase phase, bool backward, int c) const -> Scope {
  const std::vector<std::int64_t>& cuts = backward ? saved.backward_cuts : saved.forward_cuts;
  const auto i = static_cast<std::size_t>(c);
  return {unit, saved, phase, backward, c, cuts[i], cuts[i + 1], i + 2 == cuts.size()};
}

template <class T>
TaskSpec MoeBlock<T>::chunk_task(Stage stage, const Scope& s, WorkKind kind, double amount) const {
  // in slots, tokens and rows meet in other kernels, which have a price of their own
  const bool slots = ctx_.shape.padded && (stage == Stage::kOrder || stage == Stage::kIOrder);
  TaskSpec spec = compute_task(stage, s.phase, slots ? "slots" : "", layer_, s.unit, kind, amount);
  spec.chunk = static_cast<std::int16_t>(s.index);
  return spec;
}

template <class T>
double MoeBlock<T>::expert_flops(const Scope& s) const {
  return 2.0 * sent_entries(s) *
         double(ctx_.mesh.esp_size * ctx_.width() * (expert_->pre_width() + expert_->hidden_width()));
}

/// A buffer for the rows behind a hop. Where shapes are static, exactly those. Else only the routing knows how many:
/// room for the plan's imbalance limit, and never for more than can come.
template <class T>
BufferId MoeBlock<T>::hop_rows(const char* label, const Scope& s, const HopInfo& hop, std::int64_t width,
                               MemoryClass memory) const {
  const auto sent = static_cast<double>(entries(s));
  const auto mean = static_cast<std::int64_t>(hop.mean_rows * sent_entries(s));
  if (gate_.needs().static_shapes) return ctx_.buffer(label, mean * width, memory);
  auto most = static_cast<std::int64_t>(hop.most_rows * sent);
  if (const std::int64_t bound = gate_.gate().max_rows_per_expert(s.unit.rows); bound > 0 && hop.most_shards > 0)
    most = std::min(most, hop.most_shards * ctx_.mesh.ep_size * num_local_ * bound);
  const auto planned = static_cast<std::int64_t>(std::ceil(ctx_.shape.imbalance_limit * double(mean)));
  return ctx_.buffer(label, std::min(planned, most) * width, memory, planned < most);
}

template <class T>
BufferId MoeBlock<T>::expert_rows(const char* label, const Scope& s, std::int64_t width, MemoryClass memory) const {
  return has_hops() ? hop_rows(label, s, to_experts_.back()->info(), width, memory)
                    : ctx_.buffer(label, entries(s) * width, memory);
}

template <class T>
void MoeBlock<T>::emit_norm(const Unit& unit, Phase phase, const MoeSaved& s) const {
  const std::int64_t rows = unit.rows, width = ctx_.width();
  ctx_.out.task(compute_task(Stage::kNorm, phase, "ffn", layer_, unit, WorkKind::kMemory,
                             2.0 * static_cast<double>(rows * width) * sizeof(T)),
                {s.x, ctx_.weights(dense_bucket_)}, {s.normed, s.statistics},
                [rows, width, norm = norm_, x = s.x, y = s.normed, statistics = s.statistics](TaskContext& c) {
                  norm.forward(c.stream, {c.arena.get<T>(y), rows, width}, c.arena.get<Wide<T>>(statistics),
                               Matrix<const T>(c.arena.get<T>(x), rows, width));
                });
}

/// One exchange for all chunks of both directions. kNoBuffer: nobody need be told.
template <class T>
BufferId MoeBlock<T>::emit_count_exchange(const Unit& unit, Phase phase, const MoeSaved& s) const {
  if (!has_hops() || !counts_rows(phase)) return kNoBuffer;
  const int sources = ctx_.mesh.ep_size * ctx_.mesh.esp_size;
  const bool pairs = needs_pair_counts(ctx_.spec.dispatcher, ctx_.mesh);
  const std::int64_t pieces = static_cast<std::int64_t>(s.forward_cuts.size() + s.backward_cuts.size()) - 3;
  const std::int64_t received = sources * pieces * (pairs ? num_experts_ : num_local_);
  const auto bytes = static_cast<double>(received * static_cast<std::int64_t>(sizeof(std::int64_t)));
  const BufferId counts = ctx_.out.buffer(
      {"dispatch counts", MemoryClass::kCommunication, 2 * static_cast<std::int64_t>(bytes), false, true});
  TaskSpec spec = comm_task(Stage::kCountExchange, phase, "", layer_, group_links(ctx_.mesh, sources, 1),
                            pairs ? WorkKind::kAllGather : WorkKind::kAllToAll, bytes);
  spec.micro_batch = static_cast<std::int16_t>(unit.micro_batch);
  ctx_.out.task(spec, {s.gate[kGateKept]}, {counts}, [plan = s.plan, sources, runtime = ctx_.runtime](TaskContext& c) {
    const auto send = plan->counts_to_send();
    const auto recv = plan->counts_to_receive();
    const auto from = comm::as_buffer(send.data(), static_cast<std::int64_t>(send.size()));
    const auto to = comm::as_buffer(recv.data(), static_cast<std::int64_t>(recv.size()));
    comm::Communicator& group = runtime->comms->experts();
    const std::vector<std::int64_t> each(static_cast<std::size_t>(sources), plan->counts_per_peer());
    if (plan->pair_counts())
      comm::all_gather(group, from, to, c.stream);
    else
      group.all_to_all_v(from, each, to, each, c.stream);
    plan->fetch_counts(c.stream);
  });
  return counts;
}

/// Where the host is apart, it must have the counts before it issues what moves the rows: once for all chunks of both
/// directions, as they are exchanged. Else the stream that has the counts reads them.
template <class T>
void MoeBlock<T>::emit_host_wait(const Unit& unit, Phase phase, const MoeSaved& s) const {
  if (!ctx_.spec.host_apart || !counts_rows(phase)) return;
  const double bytes = double(num_experts_) * double(s.forward_cuts.size() + s.backward_cuts.size() - 3) * 8.0;
  TaskSpec spec = compute_task(Stage::kHostWait, phase, "", layer_, unit, WorkKind::kMemory, bytes);
  spec.resources = {Resource::kHost};
  ctx_.out.task(spec, {s.gate[kGateKept], s.counts}, {s.known}, [plan = s.plan](TaskContext&) { plan->finish(); });
}

template <class T>
void MoeBlock<T>::emit_tables(const Unit& unit, Phase phase, const MoeSaved& s) const {
  const TableShape shape = gate_.gate().table(unit.rows);
  const bool two = s.backward.row != s.forward.row;
  BufferList writes{s.forward.row, s.forward.token};
  if (two) {
    writes.add(s.backward.row);
    writes.add(s.backward.token);
  }
  const BufferId source = s.gate[kGateSource];
  const bool counts = counts_rows(phase), learns = counts && !ctx_.spec.host_apart;
  const bool takes = !counts && s.known != kNoBuffer;
  if (learns) writes.add(s.known);
  const BufferId known = learns ? kNoBuffer : s.known;
  ctx_.out.task(compute_task(Stage::kOrder, phase, "tables", layer_, unit, WorkKind::kMemory,
                             double(shape.rows * shape.width) * 16.0),
                {s.gate[kGateKept], source, s.counts, known}, writes,
                [=, s = s, index = unit.index, runtime = ctx_.runtime,
                 counted = phase == Phase::kForward && ctx_.training()](TaskContext& c) {
                  if (takes) s.plan->take_counts(*s.counted);
                  if (learns || takes) s.plan->finish();
                  if (counted)
                    runtime->state->statistics.received_rows(index) += static_cast<double>(s.plan->num_rows());
                  const Matrix<const std::int32_t> kept(c.arena.get<std::int32_t>(s.gate[kGateKept]), shape.rows,
                                                        shape.width);
                  Matrix<const std::int32_t> tokens;
                  if (source != kNoBuffer) tokens = {c.arena.get<std::int32_t>(source), shape.rows, shape.width};
                  for (const bool backward : {false, true}) {
                    if (backward && !two) break;
                    const RowTables& tables = backward ? s.backward : s.forward;
                    for (int i = 0; i < s.plan->num_chunks(backward); ++i) {
                      const auto cuts = s.plan->cuts(backward);
                      const std::int64_t base = cuts[static_cast<std::size_t>(i)] * shape.width;
                      s.plan->place(c.stream, backward, i, kept, tokens,
                                    {{c.arena.get<std::int32_t>(tables.row), shape.rows, shape.width},
                                     c.arena.get<std::int32_t>(tables.token) + base});
                    }
                  }
                });
}

template <class T>
void MoeBlock<T>::emit_expert(const Scope& s, BufferId gathered, BufferId output) const {
  const MoeSaved::Chunk& chunk = s.saved.chunks[static_cast<std::size_t>(s.index)];
  const std::int64_t width = ctx_.width();
  const BufferId y = reorders() ? expert_rows("expert output", s, width, MemoryClass::kWorkspace) : output;
  BufferList writes{chunk.pre, chunk.hidden, y};
  if (reorders()) {
    writes.add(chunk.input);
    writes.add(output);
  }
  ctx_.out.task(
      chunk_task(Stage::kExpert, s, WorkKind::kGroupedGemm, expert_flops(s)),
      {gathered, s.saved.forward.row, ctx_.weights(expert_bucket_)}, writes,
      [=, chunk = chunk, plan = s.saved.plan, c = s.index, reorder = reorders(), expert = expert_](TaskContext& ctx) {
        const ChunkRows& rows = plan->chunk(false, c);
        const std::int64_t n = rows.num_rows;
        const auto fill = [&](BufferId id, std::int64_t cols) {
          return Matrix<T>(ctx.arena.require<T>(ctx.stream, id, n * cols), n, cols);
        };
        Matrix<T> x(ctx.arena.get<T>(chunk.input), n, width);
        if (reorder) {
          x = fill(chunk.input, width);
          kernels::copy_blocks<T>(ctx.stream, x, Matrix<const T>(ctx.arena.get<T>(gathered), n, width),
                                  rows.to_experts);
        }
        const Matrix<T> to = fill(y, width), pre = fill(chunk.pre, expert->pre_width());
        expert->forward(ctx.stream, rows.expert_offsets, to, pre, fill(chunk.hidden, expert->hidden_width()), x);
        if (reorder) kernels::copy_blocks<T>(ctx.stream, fill(output, width), to, rows.from_experts);
      });
}

template <class T>
void MoeBlock<T>::emit_forward_chunk(const Scope& s, MoeSaved& saved, BufferId out) const {
  const std::int64_t width = ctx_.width(), n = entries(s);
  MoeSaved::Chunk& chunk = saved.chunks.emplace_back();
  chunk.input = expert_rows("expert input", s, width);
  chunk.pre = expert_rows("expert pre-activation", s, expert_->pre_width());
  chunk.hidden = expert_rows("expert hidden", s, expert_->hidden_width());
  chunk.rows = ctx_.buffer("combined rows", n * width);
  const BufferId send = has_hops() ? ctx_.buffer("dispatch send", n * width, MemoryClass::kCommunication) : chunk.input;
  const BufferId gathered =
      reorders() ? expert_rows("gathered rows", s, width, MemoryClass::kCommunication) : chunk.input;
  const BufferId output =
      has_hops() ? expert_rows("expert output, gathered", s, width, MemoryClass::kCommunication) : chunk.rows;
  emit_token_hook(HookPoint::kBeforeMoeStart, s, s.saved.normed);
  emit_order(s, send);
  emit_exchange(s, true, send, gathered);
  emit_expert(s, gathered, output);
  emit_exchange(s, false, output, chunk.rows);
  if (s.phase != Phase::kForward) return;  // a recomputation wants the rows, not their sum
  emit_i_order(s, chunk.rows, out);
  emit_token_hook(HookPoint::kBeforeMoeEnd, s, out);
}

template <class T>
void MoeBlock<T>::prepare(const Unit& unit, Phase phase, MoeSaved& s,
                          const std::shared_ptr<PooledBalance>& pooled) const {
  const TableShape table = gate_.gate().table(unit.rows);
  const scheduler::LayerShape& shape = ctx_.shape.layers[layer_];
  const bool again = phase == Phase::kBackward, full = shape.recompute == Recompute::kFull;
  const int forward_chunks = again ? shape.backward_chunks : shape.forward_chunks;
  const MoeSaved before = std::exchange(s, {});
  s.forward_cuts = chunk_cuts(table.rows, forward_chunks);
  s.backward_cuts = chunk_cuts(table.rows, ctx_.training() ? shape.backward_chunks : forward_chunks);
  if (ctx_.runtime != nullptr) {
    const Mesh& mesh = ctx_.mesh;
    s.plan = std::make_shared<DispatchPlan>(
        DispatchDims{table.rows, int(num_experts_), mesh.ep_size, mesh.ep_rank(), mesh.esp_size, mesh.esp_rank(),
                     needs_pair_counts(ctx_.spec.dispatcher, mesh), int(s.forward_cuts.size()) - 1,
                     int(s.backward_cuts.size()) - 1, shares_slots()},
        ctx_.runtime->device);
    if (!gate_.needs().count_exchange) {
      s.plan->count_all_entries();
      s.plan->finish();
    }
  }
  s.gate = gate_.buffers(unit, before.gate, again);
  s.known = before.known;
  if (counts_rows(phase) && (ctx_.spec.host_apart || full))
    s.known = ctx_.out.buffer({"counts on the host", MemoryClass::kWorkspace, 0, false, true});
  if (again) s.counted = before.plan;
  const auto new_tables = [&] {
    return RowTables{ctx_.template buffer<std::int32_t>("row table", table.rows * table.width),
                     ctx_.template buffer<std::int32_t>("token table", table.rows * table.width)};
  };
  s.forward = new_tables();
  const bool for_backward = again || !full;  // else the recomputation makes them
  s.backward = for_backward && s.forward_cuts != s.backward_cuts ? new_tables() : s.forward;
  if (!gate_.needs().early_destinations) return;
  gate_.forward_early({unit, phase, s.gate, counts_rows(phase) ? s.plan : nullptr, pooled});
  s.counts = emit_count_exchange(unit, phase, s);
}

template <class T>
BufferId MoeBlock<T>::forward(const Unit& unit, Phase phase, BufferId x, MoeSaved& s,
                              const std::shared_ptr<PooledBalance>& pooled) const {
  const std::int64_t rows = unit.rows, width = ctx_.width();
  s.x = x;
  s.normed = ctx_.buffer("ffn norm", rows * width);
  s.statistics = ctx_.template buffer<Wide<T>>("ffn norm statistics", norm_.statistics_count(rows));
  const BufferId out = ctx_.buffer("residual", rows * width);
  emit_norm(unit, phase, s);
  gate_.forward({unit, phase, s.gate, counts_rows(phase) ? s.plan : nullptr, pooled}, s.normed);
  if (!gate_.needs().early_destinations) s.counts = emit_count_exchange(unit, phase, s);
  // not early: computation, or the host, would wait for the counts in front of attention
  emit_host_wait(unit, phase, s);
  emit_tables(unit, phase, s);
  const int chunks = static_cast<int>(s.forward_cuts.size()) - 1;
  for (int c = 0; c < chunks; ++c) emit_forward_chunk(scope(unit, s, phase, false, c), s, out);
  if (ctx_.shape.layers[layer_].recompute != Recompute::kNone && phase == Phase::kForward) {
    s.normed = kNoBuffer;
    for (MoeSaved::Chunk& chunk : s.chunks) chunk.hidden = kNoBuffer;
  }
  return out;
}

template class MoeBlock<float>;
template class MoeBlock<double>;
template class MoeBlock<BF16>;

}  // namespace weft::parallel
