// parallel/step/attention_core.h - emission of attention between the projections: on one rank, or on the ranks that
// share a sequence. With heads > 1, heads are exchanged for tokens before and after (parallel/attention/heads.h); with
// ring > 1, keys and values go round while each step's part is computed (parallel/attention/ring.h). Both: heads inside
// the ring, USP, arXiv:2405.07719.
// Letters: T rows of a unit on this rank; R = T * heads rows in the core; H, Hkv heads per rank in the core; d head
// width.
#pragma once

#include <memory>
#include <vector>

#include "parallel/attention/heads.h"
#include "parallel/attention/ring.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {

/// Some columns of the rows of a buffer.
struct Columns {
  BufferId buffer = kNoBuffer;
  std::int64_t stride = 0;  ///< Elements of a whole row.
  std::int64_t first = 0;
};

/// Queries [R, H d], keys and values [R, Hkv d], or their gradients. In a ring, keys and values are the two halves of
/// one buffer, which is the message.
struct CoreTensors {
  Columns q, k, v;
  /// The second buffer, where keys and values have one of their own.
  [[nodiscard]] BufferId other_buffer() const { return k.buffer == q.buffer ? kNoBuffer : k.buffer; }
};

/// The place of `cols` columns of `rows` rows in the arena.
template <class T>
[[nodiscard]] Matrix<T> columns(const TaskContext& c, const Columns& at, std::int64_t rows, std::int64_t cols) {
  return {c.arena.get<T>(at.buffer) + at.first, rows, cols, at.stride};
}

/// What the forward of one unit leaves for its backward.
struct CoreSaved {
  CoreTensors in;
  BufferId context = kNoBuffer;  ///< [R, H d]
  BufferId lse = kNoBuffer;      ///< [R, H]
};

/// Finds segments and positions of a unit's rows in the core, in the batch of the running step.
template <class T>
struct CoreRows {
  const Runtime<T>* runtime = nullptr;
  int micro_batch = 0;
  std::int64_t first = 0;     ///< The unit's first row in the core.
  std::int64_t num_rows = 0;  ///< Core rows of the whole micro-batch on one ring rank.
  [[nodiscard]] kernels::AttentionRows of(int ring_rank) const;
};

template <class T>
class AttentionCore {
 public:
  AttentionCore(const StepContext<T>& ctx, int layer);

  /// qkv: [T, (num_heads + 2 num_kv_heads) d], queries and keys rotated. Returns the context, [T, num_heads d]; without
  /// an exchange of heads that is saved.context.
  [[nodiscard]] BufferId forward(const Unit& unit, Phase phase, BufferId qkv, CoreSaved& saved) const;
  /// From the context's gradient to that of qkv, both shaped as in forward.
  [[nodiscard]] BufferId backward(const Unit& unit, const CoreSaved& saved, BufferId d_context) const;

 private:
  [[nodiscard]] bool exchanges() const { return split_.num_ranks > 1; }
  [[nodiscard]] bool circulates() const { return ctx_.mesh.sequence_ring > 1; }
  [[nodiscard]] std::int64_t core_rows(const Unit& unit) const { return unit.rows * split_.num_ranks; }
  [[nodiscard]] std::int64_t sequences(const Unit& unit) const { return unit.rows / ctx_.rows_per_sequence(); }
  [[nodiscard]] CoreOrder order_of(const Unit& unit) const;
  /// Rows are received in the order of the core, and sent in it: there is but one sequence.
  [[nodiscard]] bool is_ordered(const Unit& unit) const { return sequences(unit) == 1; }
  [[nodiscard]] CoreRows<T> rows_of(const Unit& unit) const;
  [[nodiscard]] TaskSpec copy_task(const Unit& unit, Phase phase, const char* label, std::int64_t elements) const;

  [[nodiscard]] CoreTensors local_tensors(BufferId qkv) const;
  [[nodiscard]] CoreTensors core_tensors(const Unit& unit) const;
  void unpack_ring_message(const Unit& unit, BufferId message, BufferId d_qkv) const;
  [[nodiscard]] CoreTensors pack_ring_message(const Unit& unit, Phase phase, BufferId qkv) const;

  // attention_exchange.cpp
  void emit_exchange(const Unit& unit, Phase phase, const char* label, BufferId packed, BufferId received,
                     std::int64_t width) const;
  [[nodiscard]] BufferId received_buffer(const Unit& unit, std::int64_t width) const;
  [[nodiscard]] CoreTensors exchange_heads(const Unit& unit, Phase phase, BufferId qkv) const;
  [[nodiscard]] BufferId return_context(const Unit& unit, Phase phase, BufferId core_context) const;
  [[nodiscard]] BufferId exchange_context_gradient(const Unit& unit, BufferId d_context) const;
  [[nodiscard]] BufferId return_gradients(const Unit& unit, const CoreTensors& d) const;

  // attention_ring.cpp
  void emit_ring_forward(const Unit& unit, Phase phase, const CoreSaved& saved) const;
  void emit_ring_backward(const Unit& unit, const CoreSaved& saved, BufferId d_context, CoreTensors& d) const;
  /// Rows are narrower than what the ring adds up in.
  static constexpr bool kNarrows = !std::is_same_v<T, Wide<T>>;
  /// Rows as wide as one that is added up or rounded, in bytes of a copy.
  static constexpr std::int64_t kWideCopies = static_cast<std::int64_t>(sizeof(Wide<T>) / sizeof(T));
  struct QueryGradient {
    Columns whole;             ///< Where it ends.
    BufferId sum = kNoBuffer;  ///< [R, H d] Wide<T>, where rows are narrower.
  };
  void emit_ring_block_backward(const Unit& unit, const CoreSaved& saved, BufferId d_context, const QueryGradient& dq,
                                BufferId d_message, int step) const;
  template <class U>
  void emit_hop(const Unit& unit, Phase phase, const char* label, int step, BufferId from, BufferId to) const;
  static constexpr double kForwardFlops = 4.0, kBackwardFlops = 10.0;  // per pair, head, channel: 2 and 5 products
  [[nodiscard]] TaskSpec ring_task(const Unit& unit, Phase phase, int step, double flops_per_pair) const;

  void emit_local_forward(const Unit& unit, Phase phase, const CoreSaved& saved) const;
  void emit_local_backward(const Unit& unit, const CoreSaved& saved, BufferId d_context, const CoreTensors& d) const;

  const StepContext<T>& ctx_;
  int layer_;
  HeadSplit split_;
  kernels::AttentionShape shape_;                       ///< Of the core.
  std::shared_ptr<const std::vector<RingStep>> steps_;  ///< Of one sequence.
};

}  // namespace weft::parallel
