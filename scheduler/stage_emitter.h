// scheduler/stage_emitter.h - a whole step of N transformer blocks from a table of measured stage times.
// Source: FSMoE (arXiv:2501.10714), Table 2 (stage times of one block) and section 2.2 (order of a block's
// collectives).
#pragma once

#include <string>

#include "scheduler/emitter.h"

namespace weft::scheduler {

/// One direction of one block, milliseconds at full size.
struct StageTimes {
  double all_to_all = 0.0;      ///< Dispatch and combine together; each is half of it.
  double all_reduce = 0.0;      ///< The block's gradient reduction: backward only.
  double all_gather = 0.0;      ///< Of tensor-parallel attention and of expert shards.
  double reduce_scatter = 0.0;  ///< Likewise.
  double expert = 0.0;          ///< Backward: dX and dW, half each.
  double routing = 0.0;
  double order = 0.0;  ///< Half with the gate, half as i-order.
  double attention = 0.0;
  friend bool operator==(const StageTimes&, const StageTimes&) = default;
};

struct StageTable {
  std::string name;
  StageTimes forward, backward;
  double expert_shard_share = 0.0;  ///< Of all_gather and reduce_scatter: k f / (1 + k f).
  /// Start-up of one operation, milliseconds; routing, order and attention have none.
  double alpha_all_to_all = 0.0, alpha_all_gather = 0.0, alpha_reduce_scatter = 0.0, alpha_all_reduce = 0.0,
         alpha_expert = 0.0;
  double gradient_bytes = 0.0;  ///< Of one block's gradient reduction.
};

/// Emits `layers` blocks and `micro_batches` micro-batches, two in flight. A piece with share x of a stage that takes T
/// takes alpha + (T - alpha) x; x = 1 / (sub-batches * chunks) for what is chunked, 1 / sub-batches for the rest.
/// Forward: mp_all_gather, attention, mp_reduce_scatter, gate, then per chunk dispatch, all_gather, expert,
/// reduce_scatter, combine, i_order. Backward: per chunk i_order, dispatch, all_gather, expert (dX), reduce_scatter,
/// combine; then gate, mp_all_gather, attention, mp_reduce_scatter. expert_dw pieces come any time after the all_gather
/// of their chunks; a block's grad_reduce after its attention's backward of every sub-batch and micro-batch.
class StageEmitter final : public Emitter {
 public:
  StageEmitter(StageTable table, int layers, int micro_batches);

  [[nodiscard]] const ShapeSpace& space() const override { return space_; }
  [[nodiscard]] Graph emit(const Shape& shape) const override;
  [[nodiscard]] double gradient_bytes(int /*layer*/) const override { return table_.gradient_bytes; }
  [[nodiscard]] const StageTable& table() const { return table_; }
  /// Prices for the graphs: amounts are the microseconds beyond the start-up.
  [[nodiscard]] CostModel costs() const;

 private:
  StageTable table_;
  int layers_;
  ShapeSpace space_;
};

/// FSMoE's time of the step in closed form, milliseconds: per block the dense part is exposed and the MoE layer takes
/// T(r) = max(2 r ta, 2 ta + t_ag + t_rs + r te, 2 r ta + t_ag + t_rs, 2 ta + r (t_ag + t_rs)) (its order, with the
/// best r of {1, 2, 4, 8} per direction; fsmoe's section 4). Gradient reductions fill the idle time of the inter-node
/// link in the backward of the last micro-batch, wherever it lies; the rest is exposed. So it is a little less than
/// what a plan with the same order can reach, whose first block's gradient is ready when nothing is left to hide it.
[[nodiscard]] double fsmoe_closed_form_ms(const StageTable& table, int layers, int micro_batches);

}  // namespace weft::scheduler
