// parallel/step/moe_block.h - emission of x + MoE(Norm(x)) from its six sub-modules: gate, order, dispatch, expert,
// combine, i-order, in chunks. Source of the modules, of their hooks and of pipelining them over chunks: FSMoE,
// arXiv:2501.10714, sections 3.1 and 4.
// Letters: T rows of a unit, M width, [D, K] the routing table, a chunk is a range of D; R rows of a chunk's experts.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "parallel/moe/dispatch.h"
#include "parallel/moe/expert.h"
#include "parallel/moe/order.h"
#include "parallel/step/moe_gate_emission.h"
#include "parallel/step/norm.h"

namespace weft::parallel {

/// One direction's row tables: where each entry's row lies in its chunk, and which token each row carries.
struct RowTables {
  BufferId row = kNoBuffer;    ///< [D, K] i32
  BufferId token = kNoBuffer;  ///< [D * K] i32; chunk c's rows start at cuts[c] * K.
};

/// Buffers that one unit's pass leaves for its backward. kNoBuffer: to be computed again.
struct MoeSaved {
  MoeSaved() { gate.fill(kNoBuffer); }
  BufferId x = kNoBuffer, normed = kNoBuffer, statistics = kNoBuffer;  ///< [T, M], [T, M], the norm's.
  GateBuffers gate;
  BufferId counts = kNoBuffer;  ///< Of rows to come; kNoBuffer: known without an exchange.
  BufferId known = kNoBuffer;   ///< The host has the counts; kNoBuffer: they follow from shapes.
  RowTables forward, backward;
  struct Chunk {
    BufferId input = kNoBuffer;   ///< [R, M] rows of the local experts, expert order.
    BufferId pre = kNoBuffer;     ///< [R, 2H] or [R, H]
    BufferId hidden = kNoBuffer;  ///< [R, H]; kNoBuffer: computed again.
    BufferId rows = kNoBuffer;    ///< [entries of the chunk, M] what came back, send order.
  };
  std::vector<Chunk> chunks;                              ///< Of the forward direction.
  std::vector<std::int64_t> forward_cuts, backward_cuts;  ///< Table rows where the chunks of either direction end.
  std::shared_ptr<DispatchPlan> plan;                     ///< Null while only planning.
  std::shared_ptr<DispatchPlan> counted;  ///< Of a recomputation: the first pass', which has counted the same rows.
};

template <class T>
class MoeBlock {
 public:
  MoeBlock(const StepContext<T>& ctx, int layer);

  /// Starts a forward pass, in front of the layer's attention: what the gate knows by then is emitted.
  void prepare(const Unit& unit, Phase phase, MoeSaved& saved, const std::shared_ptr<PooledBalance>& pooled) const;
  /// Emits the rest of the forward pass; returns the output, [T, M]. With phase kBackward it is a recomputation:
  /// no statistics are counted, and what the gate keeps of its first pass, and its counts of rows, are taken over.
  BufferId forward(const Unit& unit, Phase phase, BufferId x, MoeSaved& saved,
                   const std::shared_ptr<PooledBalance>& pooled) const;
  /// d: [T, M], gradient of the output in, of the input out, in place.
  void backward(const Unit& unit, const MoeSaved& saved, BufferId d,
                const std::shared_ptr<PooledBalance>& pooled) const;

 private:
  struct ChunkBackward {  ///< What dW needs of a chunk: dY [R, M], d pre-activation, input [R, M], hidden [R, H].
    BufferId d_output, d_pre, input, hidden;
  };
  /// One chunk of one pass over the rows: whose tables it uses, and where its tasks stand.
  struct Scope {
    const Unit& unit;
    const MoeSaved& saved;
    Phase phase;
    bool backward;  ///< Gradients: chunks and tables of the backward direction.
    int index;
    std::int64_t begin, end;  ///< Table rows.
    bool last;
  };
  /// Entries of a range of the table: how many rows it may send.
  [[nodiscard]] std::int64_t entries(std::int64_t begin, std::int64_t end) const {
    return (end - begin) * table_width_;
  }
  [[nodiscard]] std::int64_t entries(const Scope& s) const { return entries(s.begin, s.end); }
  /// Of a chunk, those that this rank sends, on average.
  [[nodiscard]] double sent_entries(const Scope& s) const { return gate_.needs().travelling * double(entries(s)); }
  /// Slots that are mixtures over several ranks: summed between order and dispatch, spread behind combine.
  [[nodiscard]] bool shares_slots() const;
  [[nodiscard]] Scope scope(const Unit& unit, const MoeSaved& saved, Phase phase, bool backward, int c) const;
  /// Routed rows must be counted before they travel; a recomputation's have been.
  [[nodiscard]] bool counts_rows(Phase phase) const { return gate_.needs().count_exchange && phase == Phase::kForward; }
  [[nodiscard]] bool has_hops() const { return !to_experts_.empty(); }
  [[nodiscard]] bool reorders() const { return has_hops() && num_local_ > 1; }  ///< Gathered order is not expert order.

  [[nodiscard]] BufferId hop_rows(const char* label, const Scope& s, const HopInfo& hop, std::int64_t width,
                                  MemoryClass memory) const;
  /// A buffer for the rows of the local experts.
  [[nodiscard]] BufferId expert_rows(const char* label, const Scope& s, std::int64_t width,
                                     MemoryClass memory = MemoryClass::kActivations) const;
  [[nodiscard]] TaskSpec chunk_task(Stage stage, const Scope& s, WorkKind kind, double amount) const;
  [[nodiscard]] double expert_flops(const Scope& s) const;

  void emit_norm(const Unit& unit, Phase phase, const MoeSaved& saved) const;
  [[nodiscard]] BufferId emit_count_exchange(const Unit& unit, Phase phase, const MoeSaved& saved) const;
  void emit_host_wait(const Unit& unit, Phase phase, const MoeSaved& saved) const;
  void emit_tables(const Unit& unit, Phase phase, const MoeSaved& saved) const;
  void emit_forward_chunk(const Scope& s, MoeSaved& saved, BufferId out) const;

  // moe_block_rows.cpp: order, hops, i-order and hooks.
  struct ViewSource;  ///< What a closure needs to find the routing in the arena.
  [[nodiscard]] ViewSource view_source(const Scope& s, const RowTables& tables) const;
  void add_routing(BufferList& reads, const MoeSaved& saved, const RowTables& tables) const;
  void emit_order(const Scope& s, BufferId rows) const;
  void emit_order_backward(const Scope& s, BufferId d_sent, BufferId d_normed, BufferId d_mix) const;
  void emit_i_order(const Scope& s, BufferId rows, BufferId out) const;
  void emit_i_order_backward(const Scope& s, BufferId d, BufferId d_rows, BufferId d_weight) const;
  void emit_hops(const Scope& s, const Hops<T>& hops, BufferId from, BufferId to) const;
  void emit_row_hook(HookPoint point, const Scope& s, BufferId rows, bool on_experts) const;
  void emit_token_hook(HookPoint point, const Scope& s, BufferId tokens) const;
  void emit_exchange(const Scope& s, bool to_experts, BufferId from, BufferId to) const;

  void emit_expert(const Scope& s, BufferId gathered, BufferId output) const;
  ChunkBackward emit_expert_backward(const Scope& s, BufferId gathered, BufferId d_input) const;
  void emit_expert_dw(const Unit& unit, const MoeSaved& saved, int piece, int first_chunk,
                      std::span<const ChunkBackward> chunks) const;

  const StepContext<T>& ctx_;
  int layer_;
  int dense_bucket_, expert_bucket_;
  std::int64_t num_experts_, num_local_;
  Norm<T> norm_;
  GateEmission<T> gate_;
  std::int64_t table_width_;  ///< K of the routing table.
  std::shared_ptr<const Order<T>> order_;
  std::shared_ptr<const IOrder<T>> i_order_;
  std::shared_ptr<const Expert<T>> expert_;
  Hops<T> to_experts_, from_experts_;
};

/// [entries of chunk c] in cuts.
[[nodiscard]] inline std::int64_t rows_of(const std::vector<std::int64_t>& cuts, int c) {
  return cuts[static_cast<std::size_t>(c) + 1] - cuts[static_cast<std::size_t>(c)];
}
/// Forward chunks that share table rows with backward chunk b.
[[nodiscard]] std::vector<int> forward_chunks_of(const MoeSaved& saved, int b);

}  // namespace weft::parallel
