// scheduler/layer_emitter.h - one MoE layer, one direction: the unit that FSMoE schedules.
// Source: FSMoE (arXiv:2501.10714), sections 2.2 and 4: per chunk D(A2A) -> AG -> Expert -> RS -> C(A2A) on the
// inter-node link, the links inside a node, and the GPU; at most one gradient all-reduce beside them.
#pragma once

#include <span>

#include "scheduler/emitter.h"

namespace weft::scheduler {

/// What one direction of the layer does, at full size. Amounts in bytes and FLOPs.
struct LayerWork {
  Work all_to_all;      ///< One of dispatch and combine.
  Work all_gather;      ///< Over the ranks that share an expert.
  Work reduce_scatter;  ///< Likewise.
  Work expert;          ///< Forward, or each of dX and dW; `operations`: GEMMs.
  Work gradient;        ///< All-reduce of the layer behind, ready from the start; amount 0: none.
};

class LayerEmitter final : public Emitter {
 public:
  /// phase: kForward, or kBackward with dX and dW.
  LayerEmitter(const LayerWork& work, Phase phase, int max_chunks);

  [[nodiscard]] const ShapeSpace& space() const override { return space_; }
  [[nodiscard]] Graph emit(const Shape& shape) const override;
  /// With chunks of unequal size. shares: [r] of the layer, that sum to 1.
  [[nodiscard]] Graph emit(const Shape& shape, std::span<const double> shares) const;
  [[nodiscard]] double gradient_bytes(int /*layer*/) const override { return work_.gradient.amount; }
  /// LB(r) of the layer: critical path, loads with heads and tails of each resource; dW in one piece.
  [[nodiscard]] double shape_bound_us(const Shape& shape, const CostModel& cost) const override;
  /// min over r of LB(r), r up to where the loads alone exceed it: no number of equal chunks and no grouping of dW is
  /// faster, for any r.
  [[nodiscard]] double bound_us(const CostModel& cost) const;
  /// The same for chunks of any sizes, which may be faster than bound_us(): what comes before the first and after the
  /// last task of a resource may be the start-ups of a chunk that has almost nothing; the largest chunk has 1 / r at
  /// least.
  [[nodiscard]] double unequal_bound_us(const CostModel& cost) const;
  [[nodiscard]] int chunks(const Shape& shape) const;

 private:
  LayerWork work_;
  Phase phase_;
  ShapeSpace space_;
};

/// FSMoE's T(r) for the layer's work, microseconds: max(2 r ta + g, 2 ta + t_ag + t_rs + r te, 2 r ta + t_ag + t_rs,
/// 2 ta + r (t_ag + t_rs)), te with dX and dW in the backward, g the gradient all-reduce.
[[nodiscard]] double fsmoe_layer_us(const LayerWork& work, Phase phase, int r, const CostModel& cost);

}  // namespace weft::scheduler
