// parallel/step/moe_block.h - emission of x + MoE(Norm(x)): gate, order, dispatch, experts, combine, i-order, in
// chunks. Source of the six stages and of pipelining them over chunks of tokens: FSMoE, arXiv:2501.10714, sections 3.1
// and 4.
#pragma once

#include <memory>
#include <vector>

#include "kernels/grouped_gemm.h"
#include "parallel/moe/dispatch_plan.h"
#include "parallel/moe/gate.h"
#include "parallel/step/norm.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {

/// One direction's row tables: where each choice's row lies in its chunk, and which token each row carries.
struct RowTables {
  BufferId row = kNoBuffer;    ///< [T, K] i32
  BufferId token = kNoBuffer;  ///< [T * K] i32; chunk c's rows start at cuts[c] * K.
};

/// Buffers that one unit's pass leaves for its backward. kNoBuffer: to be computed again.
struct MoeSaved {
  BufferId x = kNoBuffer, normed = kNoBuffer, statistics = kNoBuffer;   ///< [T, M], [T, M], the norm's.
  BufferId probs = kNoBuffer, lse = kNoBuffer, weight = kNoBuffer;      ///< [T, E], [T], [T, K]
  BufferId expert = kNoBuffer, kept = kNoBuffer, fraction = kNoBuffer;  ///< [T, K], [T, K], [G, E]
  RowTables forward, backward;
  struct Chunk {
    BufferId input = kNoBuffer;   ///< [R, M] rows of the local experts, expert order.
    BufferId pre = kNoBuffer;     ///< [R, 2H] or [R, H]
    BufferId hidden = kNoBuffer;  ///< [R, H]; kNoBuffer: computed again.
    BufferId rows = kNoBuffer;    ///< [rows of the chunk's tokens, M] what came back, send order.
  };
  std::vector<Chunk> chunks;                              ///< Of the forward direction.
  std::vector<std::int64_t> forward_cuts, backward_cuts;  ///< Token boundaries of the chunks of either direction.
  std::shared_ptr<DispatchPlan> plan;                     ///< Null while only planning.
};

struct RouterDims {
  std::int64_t num_experts = 0, top_k = 0;
  std::int64_t group_rows = 0;  ///< Rows of a routing group on this rank.
};
/// The routing tensors of a unit, in the arena.
template <class T>
[[nodiscard]] Routing<T> routing_of(const TaskContext& c, const Unit& unit, const MoeSaved& saved,
                                    const RouterDims& dims);

template <class T>
class MoeBlock {
 public:
  MoeBlock(const StepContext<T>& ctx, int layer);

  /// Emits the forward pass; returns the output, [T, M]. With phase kBackward it is a recomputation: nothing is
  /// counted, and `saved.fraction` is taken over from the pass before.
  BufferId forward(const Unit& unit, Phase phase, BufferId x, MoeSaved& saved,
                   const std::shared_ptr<PooledBalance>& pooled) const;
  /// d: [T, M], gradient of the output in, of the input out, in place.
  void backward(const Unit& unit, const MoeSaved& saved, BufferId d,
                const std::shared_ptr<PooledBalance>& pooled) const;

 private:
  struct ChunkBackward {  ///< What dW needs of a chunk: dY [R, M], d pre-activation, input [R, M], hidden [R, H].
    BufferId d_output, d_pre, input, hidden;
  };

  [[nodiscard]] bool dispatches() const { return ctx_.mesh.ep_size > 1; }
  [[nodiscard]] bool gathers() const { return ctx_.mesh.esp_size > 1; }
  [[nodiscard]] bool has_comm() const { return dispatches() || gathers(); }
  [[nodiscard]] bool reorders() const { return has_comm() && num_local_ > 1; }  ///< Gathered order is not expert order.
  [[nodiscard]] BufferId arrived_rows(const char* label, std::int64_t tokens, std::int64_t width, int shards,
                                      MemoryClass memory) const;
  [[nodiscard]] BufferId expert_rows(const char* label, std::int64_t tokens, std::int64_t width,
                                     MemoryClass memory = MemoryClass::kActivations) const {
    return arrived_rows(label, tokens, width, ctx_.mesh.esp_size, memory);
  }
  [[nodiscard]] scheduler::ResourceSet links_of(WorkKind kind) const;
  [[nodiscard]] TaskSpec chunk_task(Stage stage, Phase phase, const Unit& unit, int c, WorkKind kind,
                                    double amount) const;

  void emit_norm(const Unit& unit, Phase phase, const MoeSaved& saved) const;
  void emit_gate(const Unit& unit, Phase phase, const MoeSaved& saved,
                 const std::shared_ptr<PooledBalance>& pooled) const;
  void emit_running_counts(const Unit& unit, const MoeSaved& saved, const std::shared_ptr<PooledBalance>& pooled) const;
  void emit_tables(const Unit& unit, Phase phase, const MoeSaved& saved) const;
  void emit_forward_chunk(const Unit& unit, Phase phase, MoeSaved& saved, int c, BufferId out) const;
  /// One chunk of one pass over the rows: which way its tables run, and where its tasks stand.
  struct Chunk {
    const Unit& unit;
    const MoeSaved& saved;
    Phase phase;
    bool backward;  ///< Chunks and tables of the backward direction.
    int index;
    std::int64_t tokens;
  };
  void emit_to_experts(const Chunk& chunk, BufferId send, BufferId gathered) const;
  void emit_from_experts(const Chunk& chunk, BufferId gathered, BufferId rows) const;
  void emit_all_to_all(const Chunk& chunk, bool to_experts, BufferId from, BufferId to) const;
  void emit_shard_exchange(const Chunk& chunk, bool to_experts, BufferId from, BufferId to) const;
  void emit_expert(const TaskSpec& spec, const MoeSaved& saved, int c, BufferId arrived, BufferId back) const;
  void emit_i_order(const TaskSpec& spec, const Unit& unit, const MoeSaved& saved, int c, BufferId out) const;
  void emit_i_order_backward(const Unit& unit, const MoeSaved& saved, int c, BufferId d, BufferId d_rows,
                             BufferId d_weight) const;
  ChunkBackward emit_expert_backward(const Unit& unit, const MoeSaved& saved, int c, BufferId arrived,
                                     BufferId back) const;
  void emit_expert_dw(const Unit& unit, const MoeSaved& saved, int piece, int first_chunk,
                      std::span<const ChunkBackward> chunks) const;
  void emit_gate_backward(const Unit& unit, const MoeSaved& saved, BufferId d_weight, BufferId d_normed,
                          const std::shared_ptr<PooledBalance>& pooled) const;
  [[nodiscard]] RouterDims router_dims() const;

  const StepContext<T>& ctx_;
  int layer_;
  int dense_bucket_, expert_bucket_;
  bool first_moe_layer_;
  std::int64_t num_experts_, num_local_, top_k_, hidden_width_, pre_width_;
  Norm<T> norm_;
  SoftmaxTopKGate<T> gate_;
  Parameter<T> router_;
  kernels::ExpertWeights<T> pre_, down_, d_pre_, d_down_;  ///< Weights, and their gradients.
};

}  // namespace weft::parallel
