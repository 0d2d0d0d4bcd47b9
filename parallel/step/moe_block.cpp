// parallel/step/moe_block.cpp - set-up and forward; moe_block_backward.cpp has the rest.
#include "parallel/step/moe_block.h"

#include <algorithm>
#include <cmath>

#include "comm/communicator.h"
#include "core/error.h"
#include "kernels/gemm.h"
#include "kernels/permute.h"
#include "kernels/router.h"
#include "parallel/step/feed_forward.h"

namespace weft::parallel {

using scheduler::Recompute;

template <class T>
Routing<T> routing_of(const TaskContext& c, const Unit& unit, const MoeSaved& s, const RouterDims& dims) {
  Routing<T> r;
  r.probs = {c.arena.get<T>(s.probs), unit.rows, dims.num_experts};
  r.lse = c.arena.get<T>(s.lse);
  r.expert = {c.arena.get<std::int32_t>(s.expert), unit.rows, dims.top_k};
  r.kept = {c.arena.get<std::int32_t>(s.kept), unit.rows, dims.top_k};
  r.weight = {c.arena.get<T>(s.weight), unit.rows, dims.top_k};
  if (s.fraction != kNoBuffer)
    r.fraction = {c.arena.get<double>(s.fraction), unit.rows / dims.group_rows, dims.num_experts};
  return r;
}
template Routing<float> routing_of<float>(const TaskContext&, const Unit&, const MoeSaved&, const RouterDims&);
template Routing<double> routing_of<double>(const TaskContext&, const Unit&, const MoeSaved&, const RouterDims&);

template <class T>
MoeBlock<T>::MoeBlock(const StepContext<T>& ctx, int layer)
    : ctx_(ctx),
      layer_(layer),
      dense_bucket_(ctx.table.dense_bucket(layer)),
      expert_bucket_(ctx.table.expert_bucket(layer)),
      first_moe_layer_(static_cast<std::size_t>(layer) == ctx.model.layer_pattern.find('M')),
      num_experts_(ctx.model.moe.experts),
      num_local_(ctx.mesh.num_local_experts(ctx.model.moe.experts)),
      top_k_(ctx.model.moe.top_k),
      hidden_width_(ctx.model.expert_hidden_dim / ctx.mesh.esp_size),
      pre_width_(is_gated(ctx.model.family) ? 2 * hidden_width_ : hidden_width_),
      norm_(ctx, str("layers.", layer, ".ffn_norm")),
      gate_(ctx.model.moe, std::int64_t{ctx.spec.geometry.group_sequences} * ctx.sequence_length(), ctx.mesh.sp_size()),
      router_(ctx.parameter(str("layers.", layer, ".moe.gate.weight"))) {
  const bool gated = is_gated(ctx.model.family);
  const int first = ctx.mesh.first_local_expert(ctx.model.moe.experts);
  const std::string prefix = str("layers.", layer, ".moe.experts.", first, ".");
  const Parameter<T> pre = ctx.parameter(prefix + (gated ? "gate.weight" : "up.weight"));
  const Parameter<T> pre_bias = ctx.parameter(prefix + "up.bias");
  const Parameter<T> down = ctx.parameter(prefix + "down.weight"), down_bias = ctx.parameter(prefix + "down.bias");
  const std::int64_t stride = ctx.table.buckets()[static_cast<std::size_t>(expert_bucket_)].count / num_local_;
  const std::int64_t width = ctx.width();
  pre_ = {pre.weight, stride, pre_bias.weight, stride, pre_width_, width};
  d_pre_ = {pre.grad, stride, pre_bias.grad, stride, pre_width_, width};
  down_ = {down.weight, stride, down_bias.weight, stride, width, hidden_width_};  // its bias: on ESP rank 0 alone
  d_down_ = {down.grad, stride, down_bias.grad, stride, width, hidden_width_};
}

template <class T>
scheduler::ResourceSet MoeBlock<T>::links_of(WorkKind kind) const {
  const Mesh& mesh = ctx_.mesh;
  return kind == WorkKind::kAllToAll ? group_links(mesh, mesh.ep_size, mesh.esp_size)
                                     : group_links(mesh, mesh.esp_size, 1);
}

template <class T>
TaskSpec MoeBlock<T>::chunk_task(Stage stage, Phase phase, const Unit& unit, int c, WorkKind kind,
                                 double amount) const {
  TaskSpec spec = compute_task(stage, phase, "", layer_, unit, kind, amount);
  spec.chunk = static_cast<std::int16_t>(c);
  if (kind == WorkKind::kAllToAll || kind == WorkKind::kAllGather || kind == WorkKind::kReduceScatter)
    spec.resources = links_of(kind);
  return spec;
}

/// A buffer for the rows that arrive at `shards` ESP peers from `tokens` tokens of every rank. Without a capacity only
/// the routing knows how many: room for the plan's imbalance limit, and never for more than can come.
template <class T>
BufferId MoeBlock<T>::arrived_rows(const char* label, std::int64_t tokens, std::int64_t width, int shards,
                                   MemoryClass memory) const {
  const std::int64_t mine = tokens * top_k_;
  if (!dispatches()) return ctx_.buffer(label, shards * mine * width, memory);
  std::int64_t most = ctx_.mesh.ep_size * mine;
  if (const std::int64_t capacity = gate_.capacity(); capacity > 0) {
    const StepGeometry& g = ctx_.spec.geometry;
    most = std::min(most, ctx_.mesh.ep_size * num_local_ * capacity * (g.micro_batch / g.group_sequences));
  }
  const auto planned = static_cast<std::int64_t>(std::ceil(ctx_.shape.imbalance_limit * double(mine)));
  return ctx_.buffer(label, shards * std::min(planned, most) * width, memory, planned < most);
}

template <class T>
RouterDims MoeBlock<T>::router_dims() const {
  return {num_experts_, top_k_, std::int64_t{ctx_.spec.geometry.group_sequences} * ctx_.rows_per_sequence()};
}

template <class T>
void MoeBlock<T>::emit_norm(const Unit& unit, Phase phase, const MoeSaved& s) const {
  const std::int64_t rows = unit.rows, width = ctx_.width();
  ctx_.out.task(compute_task(Stage::kNorm, phase, "ffn", layer_, unit, WorkKind::kMemory,
                             2.0 * static_cast<double>(rows * width) * sizeof(T)),
                {s.x, ctx_.weights(dense_bucket_)}, {s.normed, s.statistics},
                [rows, width, norm = norm_, x = s.x, y = s.normed, statistics = s.statistics](TaskContext& c) {
                  norm.forward(c.stream, {c.arena.get<T>(y), rows, width}, c.arena.get<T>(statistics),
                               Matrix<const T>(c.arena.get<T>(x), rows, width));
                });
}

template <class T>
void MoeBlock<T>::emit_gate(const Unit& unit, Phase phase, const MoeSaved& s,
                            const std::shared_ptr<PooledBalance>& pooled) const {
  const std::int64_t rows = unit.rows, width = ctx_.width(), experts = num_experts_;
  const Runtime<T>* runtime = ctx_.runtime;
  const BufferId logits = ctx_.buffer("router logits", rows * experts, MemoryClass::kWorkspace);
  const bool counts = phase == Phase::kForward && ctx_.training();  // a recomputation must not count again
  const bool balances = counts && ctx_.model.moe.balance_scope != BalanceScope::kGlobalRunning;
  const std::int64_t first_row =
      std::int64_t{unit.micro_batch} * ctx_.spec.geometry.micro_batch * ctx_.rows_per_sequence() + unit.first_row;
  BufferList reads{s.normed, ctx_.weights(dense_bucket_)};
  BufferList writes{logits, s.probs, s.lse, s.weight, s.expert, s.kept};
  (counts ? writes : reads).add(s.fraction);
  ctx_.out.task(
      compute_task(Stage::kGate, phase, "route", layer_, unit, WorkKind::kGemm, 2.0 * double(rows * width * experts)),
      reads, writes,
      [=, this_layer = layer_, first = first_moe_layer_, gate = gate_, w = router_,
       dims = router_dims()](TaskContext& c) {
        const Matrix<T> z(c.arena.get<T>(logits), rows, experts);
        kernels::linear_forward<T>(c.stream, z, Matrix<const T>(c.arena.get<T>(s.normed), rows, width),
                                   Matrix<const T>(w.weight, experts, width));
        const Routing<T> r = routing_of<T>(c, unit, s, dims);
        gate.route(c.stream, r, z);
        s.plan->count_choices(r.kept);
        if (first && counts) *pooled = {};
        if (balances)
          gate.balance(c.stream, r, *runtime->state, this_layer, *pooled,
                       &runtime->state->statistics.router(unit.index, this_layer));
        if (runtime->capture == nullptr || runtime->capture->expert.empty()) return;
        Capture<T>& capture = *runtime->capture;
        std::copy_n(r.expert.data, rows * r.expert.cols, capture.expert[this_layer].row(first_row));
        std::copy_n(r.weight.data, rows * r.weight.cols, capture.expert_weight[this_layer].row(first_row));
      });
}

template <class T>
void MoeBlock<T>::emit_running_counts(const Unit& unit, const MoeSaved& s,
                                      const std::shared_ptr<PooledBalance>& pooled) const {
  const Runtime<T>* runtime = ctx_.runtime;
  const auto links = group_links(ctx_.mesh, ctx_.mesh.world_size, 1);
  ctx_.out.task(comm_task(Stage::kGate, Phase::kForward, "running counts", layer_, links, WorkKind::kAllReduce,
                          2.0 * double(num_experts_) * sizeof(std::int64_t)),
                {s.probs, s.expert, s.kept}, {s.fraction},
                [=, experts = num_experts_, this_layer = layer_, gate = gate_, dims = router_dims()](TaskContext& c) {
                  const Routing<T> r = routing_of<T>(c, unit, s, dims);
                  std::vector<std::int64_t> count(static_cast<std::size_t>(experts));
                  kernels::router_count(c.stream, {count.data(), 1, experts}, r.expert);
                  runtime->comms->world().all_reduce(comm::as_buffer(count.data(), experts),
                                                     comm::as_buffer(count.data(), experts), comm::ReduceOp::kSum,
                                                     c.stream);
                  std::vector<double>& running = runtime->state->running_choices[static_cast<std::size_t>(this_layer)];
                  for (std::size_t e = 0; e < count.size(); ++e) running[e] += static_cast<double>(count[e]);
                  gate.balance(c.stream, r, *runtime->state, this_layer, *pooled,
                               &runtime->state->statistics.router(unit.index, this_layer));
                });
}

template <class T>
void MoeBlock<T>::emit_tables(const Unit& unit, Phase phase, const MoeSaved& s) const {
  const std::int64_t rows = unit.rows, k = top_k_;
  const Runtime<T>* runtime = ctx_.runtime;
  BufferId counts = kNoBuffer;
  if (has_comm()) {
    const std::int64_t pieces = static_cast<std::int64_t>(s.forward_cuts.size() + s.backward_cuts.size()) - 3;
    const int sources = ctx_.mesh.ep_size * ctx_.mesh.esp_size;
    const std::int64_t bytes = 2 * sources * num_local_ * pieces * static_cast<std::int64_t>(sizeof(std::int64_t));
    counts = ctx_.out.buffer({"dispatch counts", MemoryClass::kCommunication, bytes, false, true});
    TaskSpec spec = comm_task(Stage::kCountExchange, phase, "", layer_, group_links(ctx_.mesh, sources, 1),
                              WorkKind::kAllToAll, double(bytes) / 2);
    spec.micro_batch = static_cast<std::int16_t>(unit.micro_batch);
    ctx_.out.task(spec, {s.kept}, {counts}, [=](TaskContext& c) {
      const std::vector<std::int64_t> each(static_cast<std::size_t>(sources), s.plan->counts_per_peer());
      const auto send = s.plan->counts_to_send();
      const auto recv = s.plan->counts_to_receive();
      runtime->comms->experts().all_to_all_v(comm::as_buffer(send.data(), static_cast<std::int64_t>(send.size())), each,
                                             comm::as_buffer(recv.data(), static_cast<std::int64_t>(recv.size())), each,
                                             c.stream);
    });
  }
  const bool counted = phase == Phase::kForward && ctx_.training();
  const bool two = s.backward.row != s.forward.row;
  BufferList writes{s.forward.row, s.forward.token};
  if (two) {
    writes.add(s.backward.row);
    writes.add(s.backward.token);
  }
  ctx_.out.task(compute_task(Stage::kOrder, phase, "tables", layer_, unit, WorkKind::kMemory, double(rows * k) * 16.0),
                {s.kept, counts}, writes, [=, exchanged = has_comm()](TaskContext& c) {
                  if (!exchanged) {
                    const auto send = s.plan->counts_to_send();
                    std::copy(send.begin(), send.end(), s.plan->counts_to_receive().begin());
                  }
                  s.plan->finish();
                  if (counted)
                    runtime->state->statistics.received_rows(unit.index) += static_cast<double>(s.plan->num_rows());
                  const Matrix<const std::int32_t> kept(c.arena.get<std::int32_t>(s.kept), rows, k);
                  for (const bool backward : {false, true}) {
                    if (backward && !two) break;
                    const RowTables& tables = backward ? s.backward : s.forward;
                    for (int i = 0; i < s.plan->num_chunks(backward); ++i) {
                      const std::int64_t base = s.plan->cuts(backward)[static_cast<std::size_t>(i)] * k;
                      const std::int64_t end = s.plan->cuts(backward)[static_cast<std::size_t>(i) + 1] * k;
                      s.plan->place(
                          backward, i, kept, {c.arena.get<std::int32_t>(tables.row), rows, k},
                          {c.arena.get<std::int32_t>(tables.token) + base, static_cast<std::size_t>(end - base)});
                    }
                  }
                });
}

template <class T>
void MoeBlock<T>::emit_all_to_all(const Chunk& chunk, bool to_experts, BufferId from, BufferId to) const {
  const Runtime<T>* runtime = ctx_.runtime;
  const int ranks = ctx_.mesh.ep_size;
  const double wire = double(chunk.tokens * top_k_ * ctx_.width()) * sizeof(T) * (ranks - 1) / ranks;
  ctx_.out.task(
      chunk_task(to_experts ? Stage::kDispatch : Stage::kCombine, chunk.phase, chunk.unit, chunk.index,
                 WorkKind::kAllToAll, wire),
      {from, chunk.saved.forward.row}, {to},
      [=, width = ctx_.width(), plan = chunk.saved.plan, backward = chunk.backward, c = chunk.index](TaskContext& ctx) {
        const ChunkRows& rows = plan->chunk(backward, c);
        std::vector<std::int64_t> send = to_experts ? rows.send_rows : rows.recv_rows;
        std::vector<std::int64_t> recv = to_experts ? rows.recv_rows : rows.send_rows;
        for (auto* counts : {&send, &recv})
          for (std::int64_t& n : *counts) n *= width;
        const std::int64_t num_send = (to_experts ? rows.num_send : rows.num_recv) * width;
        const std::int64_t num_recv = (to_experts ? rows.num_recv : rows.num_send) * width;
        T* target = ctx.arena.require<T>(to, num_recv);
        runtime->comms->ep().all_to_all_v(comm::as_buffer(ctx.arena.get<T>(from), num_send), send,
                                          comm::as_buffer(target, num_recv), recv, ctx.stream);
      });
}

/// Arrived rows to all ESP peers, or the sum of the peers' rows back to where they arrived.
template <class T>
void MoeBlock<T>::emit_shard_exchange(const Chunk& chunk, bool to_experts, BufferId from, BufferId to) const {
  const Runtime<T>* runtime = ctx_.runtime;
  const double wire = double(chunk.tokens * top_k_ * ctx_.width()) * sizeof(T) * (ctx_.mesh.esp_size - 1);
  ctx_.out.task(
      chunk_task(to_experts ? Stage::kAllGather : Stage::kReduceScatter, chunk.phase, chunk.unit, chunk.index,
                 to_experts ? WorkKind::kAllGather : WorkKind::kReduceScatter, wire),
      {from, chunk.saved.forward.row}, {to},
      [=, width = ctx_.width(), plan = chunk.saved.plan, backward = chunk.backward, c = chunk.index](TaskContext& ctx) {
        const ChunkRows& rows = plan->chunk(backward, c);
        std::vector<std::int64_t> counts = rows.shard_rows;
        for (std::int64_t& n : counts) n *= width;
        const std::int64_t arrived = rows.num_recv * width, all = rows.num_rows * width;
        T* target = ctx.arena.require<T>(to, to_experts ? all : arrived);
        comm::Communicator& esp = runtime->comms->esp();
        if (to_experts)
          esp.all_gather_v(comm::as_buffer(ctx.arena.get<T>(from), arrived), comm::as_buffer(target, all), counts,
                           ctx.stream);
        else
          esp.reduce_scatter_v(comm::as_buffer(ctx.arena.get<T>(from), all), comm::as_buffer(target, arrived), counts,
                               comm::ReduceOp::kSum, ctx.stream);
      });
}

/// Rows in send order to the experts' ranks, in gathered order. Without communication the two are one buffer.
template <class T>
void MoeBlock<T>::emit_to_experts(const Chunk& chunk, BufferId send, BufferId gathered) const {
  BufferId arrived = gathered;
  if (dispatches() && gathers())
    arrived = arrived_rows("dispatch recv", chunk.tokens, ctx_.width(), 1, MemoryClass::kCommunication);
  if (dispatches()) emit_all_to_all(chunk, true, send, arrived);
  if (gathers()) emit_shard_exchange(chunk, true, dispatches() ? arrived : send, gathered);
}

/// The way back.
template <class T>
void MoeBlock<T>::emit_from_experts(const Chunk& chunk, BufferId gathered, BufferId rows) const {
  BufferId back = gathered;
  if (dispatches() && gathers())
    back = arrived_rows("combine send", chunk.tokens, ctx_.width(), 1, MemoryClass::kCommunication);
  if (gathers()) emit_shard_exchange(chunk, false, gathered, dispatches() ? back : rows);
  if (dispatches()) emit_all_to_all(chunk, false, back, rows);
}

template <class T>
void MoeBlock<T>::emit_expert(const TaskSpec& spec, const MoeSaved& s, int c, BufferId arrived, BufferId back) const {
  const MoeSaved::Chunk& chunk = s.chunks[static_cast<std::size_t>(c)];
  const std::int64_t tokens =
      s.forward_cuts[static_cast<std::size_t>(c) + 1] - s.forward_cuts[static_cast<std::size_t>(c)];
  const BufferId output =
      reorders() ? expert_rows("expert output", tokens, ctx_.width(), MemoryClass::kWorkspace) : back;
  BufferList reads{arrived, s.forward.row, ctx_.weights(expert_bucket_)};
  BufferList writes{chunk.pre, chunk.hidden, output};
  if (reorders()) {
    writes.add(chunk.input);
    writes.add(back);
  }
  ctx_.out.task(spec, reads, writes,
                [=, plan = s.plan, reorder = reorders(), width = ctx_.width(), hidden_width = hidden_width_,
                 pre_width = pre_width_, pre_w = pre_, down_w = down_, family = ctx_.model.family](TaskContext& ctx) {
                  const ChunkRows& rows = plan->chunk(false, c);
                  const std::int64_t n = rows.num_rows;
                  Matrix<T> x(ctx.arena.get<T>(chunk.input), n, width);
                  if (reorder) {
                    x.data = ctx.arena.require<T>(chunk.input, n * width);
                    kernels::gather_rows<T>(ctx.stream, x, Matrix<const T>(ctx.arena.get<T>(arrived), n, width),
                                            rows.gathered_of.data());
                  }
                  const Matrix<T> pre(ctx.arena.require<T>(chunk.pre, n * pre_width), n, pre_width);
                  const Matrix<T> hidden(ctx.arena.require<T>(chunk.hidden, n * hidden_width), n, hidden_width);
                  const Matrix<T> y(ctx.arena.require<T>(output, n * width), n, width);
                  kernels::grouped_linear_forward<T>(ctx.stream, pre, x, pre_w, rows.expert_offsets);
                  activation_forward<T>(ctx.stream, family, hidden, pre);
                  kernels::grouped_linear_forward<T>(ctx.stream, y, hidden, down_w, rows.expert_offsets);
                  if (reorder)
                    kernels::gather_rows<T>(ctx.stream, {ctx.arena.require<T>(back, n * width), n, width}, y,
                                            rows.expert_of.data());
                });
}

template <class T>
void MoeBlock<T>::emit_i_order(const TaskSpec& spec, const Unit& unit, const MoeSaved& s, int c, BufferId out) const {
  const BufferId rows_buffer = s.chunks[static_cast<std::size_t>(c)].rows;
  const std::int64_t begin = s.forward_cuts[static_cast<std::size_t>(c)];
  const std::int64_t tokens = s.forward_cuts[static_cast<std::size_t>(c) + 1] - begin;
  ctx_.out.task(spec, {s.x, rows_buffer, s.forward.row, s.weight}, {out},
                [=, unit_rows = unit.rows, width = ctx_.width(), k = top_k_](TaskContext& ctx) {
                  const Matrix<T> y(ctx.arena.get<T>(out), unit_rows, width);
                  const Matrix<const T> x(ctx.arena.get<T>(s.x), unit_rows, width);
                  const Matrix<const std::int32_t> row(ctx.arena.get<std::int32_t>(s.forward.row), unit_rows, k);
                  const Matrix<const T> weight(ctx.arena.get<T>(s.weight), unit_rows, k);
                  kernels::unpermute_weighted<T>(
                      ctx.stream, y.row_range(begin, tokens), x.row_range(begin, tokens),
                      Matrix<const T>(ctx.arena.get<T>(rows_buffer), s.plan->chunk(false, c).num_send, width),
                      row.row_range(begin, tokens), weight.row_range(begin, tokens));
                });
}

template <class T>
void MoeBlock<T>::emit_forward_chunk(const Unit& unit, Phase phase, MoeSaved& s, int c, BufferId out) const {
  const std::int64_t begin = s.forward_cuts[static_cast<std::size_t>(c)];
  const std::int64_t tokens = s.forward_cuts[static_cast<std::size_t>(c) + 1] - begin, width = ctx_.width();
  const double bytes = static_cast<double>(tokens * top_k_ * width) * sizeof(T);
  MoeSaved::Chunk& chunk = s.chunks.emplace_back();
  chunk.input = expert_rows("expert input", tokens, width);
  chunk.pre = expert_rows("expert pre-activation", tokens, pre_width_);
  chunk.hidden = expert_rows("expert hidden", tokens, hidden_width_);
  chunk.rows = ctx_.buffer("combined rows", tokens * top_k_ * width);
  const BufferId send =
      has_comm() ? ctx_.buffer("dispatch send", tokens * top_k_ * width, MemoryClass::kCommunication) : chunk.input;
  const BufferId gathered =
      reorders() ? expert_rows("gathered rows", tokens, width, MemoryClass::kCommunication) : chunk.input;
  const BufferId output =
      has_comm() ? expert_rows("expert output, gathered", tokens, width, MemoryClass::kCommunication) : chunk.rows;
  const Chunk where{unit, s, phase, false, c, tokens};

  ctx_.out.task(chunk_task(Stage::kOrder, phase, unit, c, WorkKind::kMemory, 2.0 * bytes), {s.normed, s.forward.token},
                {send},
                [=, unit_rows = unit.rows, plan = s.plan, k = top_k_, normed = s.normed,
                 token = s.forward.token](TaskContext& ctx) {
                  const Matrix<T> to(ctx.arena.get<T>(send), plan->chunk(false, c).num_send, width);
                  kernels::gather_rows<T>(ctx.stream, to, Matrix<const T>(ctx.arena.get<T>(normed), unit_rows, width),
                                          ctx.arena.get<std::int32_t>(token) + begin * k);
                });
  emit_to_experts(where, send, gathered);
  emit_expert(chunk_task(Stage::kExpert, phase, unit, c, WorkKind::kGroupedGemm,
                         2.0 * double(ctx_.mesh.esp_size * tokens * top_k_ * width * (pre_width_ + hidden_width_))),
              s, c, gathered, output);
  emit_from_experts(where, output, chunk.rows);
  if (phase == Phase::kForward)  // a recomputation wants the rows, not their sum
    emit_i_order(chunk_task(Stage::kIOrder, phase, unit, c, WorkKind::kMemory, bytes * (1.0 + 2.0 / double(top_k_))),
                 unit, s, c, out);
}

template <class T>
BufferId MoeBlock<T>::forward(const Unit& unit, Phase phase, BufferId x, MoeSaved& s,
                              const std::shared_ptr<PooledBalance>& pooled) const {
  const std::int64_t rows = unit.rows, width = ctx_.width();
  const scheduler::LayerShape& shape = ctx_.shape.layers[layer_];
  const bool again = phase == Phase::kBackward;
  const bool full = shape.recompute == Recompute::kFull;
  const int forward_chunks = again ? shape.backward_chunks : shape.forward_chunks;
  const int backward_chunks = full && !again ? forward_chunks : shape.backward_chunks;
  const BufferId fraction = s.fraction;
  s = MoeSaved{};
  s.forward_cuts = chunk_cuts(rows, forward_chunks);
  s.backward_cuts = chunk_cuts(rows, ctx_.training() ? backward_chunks : forward_chunks);
  if (ctx_.runtime != nullptr)
    s.plan = std::make_shared<DispatchPlan>(DispatchDims{rows, int(num_experts_), ctx_.mesh.ep_size, ctx_.mesh.esp_size,
                                                         ctx_.mesh.esp_rank(), int(s.forward_cuts.size()) - 1,
                                                         int(s.backward_cuts.size()) - 1});
  s.x = x;
  s.normed = ctx_.buffer("ffn norm", rows * width);
  s.statistics = ctx_.buffer("ffn norm statistics", norm_.statistics_count(rows));
  s.probs = ctx_.buffer("router probs", rows * num_experts_);
  s.lse = ctx_.buffer("router lse", rows);
  s.weight = ctx_.buffer("router weight", rows * top_k_);
  s.expert = ctx_.template buffer<std::int32_t>("router choice", rows * top_k_);
  s.kept = ctx_.template buffer<std::int32_t>("router kept", rows * top_k_);
  s.fraction = fraction;
  if (!again && ctx_.training() && gate_.needs_fraction())
    s.fraction = ctx_.template buffer<double>("balance fractions", rows / ctx_.rows_per_sequence() * num_experts_);
  s.forward = {ctx_.template buffer<std::int32_t>("row table", rows * top_k_),
               ctx_.template buffer<std::int32_t>("token table", rows * top_k_)};
  s.backward = s.forward;
  if (s.forward_cuts != s.backward_cuts)
    s.backward = {ctx_.template buffer<std::int32_t>("row table", rows * top_k_),
                  ctx_.template buffer<std::int32_t>("token table", rows * top_k_)};

  const BufferId out = ctx_.buffer("residual", rows * width);
  emit_norm(unit, phase, s);
  emit_gate(unit, phase, s, pooled);
  if (!again && ctx_.training() && ctx_.model.moe.balance_scope == BalanceScope::kGlobalRunning &&
      gate_.needs_fraction())
    emit_running_counts(unit, s, pooled);
  emit_tables(unit, phase, s);
  for (int c = 0; c < forward_chunks; ++c) emit_forward_chunk(unit, phase, s, c, out);
  if (shape.recompute != Recompute::kNone && !again) {
    s.normed = kNoBuffer;
    for (MoeSaved::Chunk& chunk : s.chunks) chunk.hidden = kNoBuffer;
  }
  return out;
}

template class MoeBlock<float>;
template class MoeBlock<double>;

}  // namespace weft::parallel
