// scheduler/unequal_chunks.h - chunks of different sizes for one MoE layer: what they gain over equal ones.
#pragma once

#include <vector>

#include "scheduler/layer_emitter.h"
#include "scheduler/plan.h"

namespace weft::scheduler {

struct UnequalPlan {
  Plan plan;                   ///< Its order is of LayerEmitter::emit(plan.shape, shares).
  std::vector<double> shares;  ///< [r] of the layer that each chunk has, in the order of chunks; they sum to 1.
  double total_us = 0.0;
};

/// Searches sizes of chunks from a plan with equal ones; never slower than that on the cost model (which must have no
/// contention and no issuing). At a fixed order the step's time is a maximum over paths, each linear in the shares, so
/// the best shares are those of a linear program, solved by cutting planes; orders and shares are improved in turn, for
/// r around that of `equal`. Source: Kelley, "The cutting-plane method for solving convex programs", J. SIAM 8(4),
/// 1960.
[[nodiscard]] UnequalPlan unequal_chunks(const LayerEmitter& emitter, const CostModel& cost, const Plan& equal);

/// min over x of max over rows of row . x, for x >= 0 that sum to 1; rows: at least one, all of x's length. Returns x.
/// By the simplex method on the equivalent program max sum u, rows u <= 1, u >= 0 (von Neumann's matrix game).
[[nodiscard]] std::vector<double> minimize_largest(const std::vector<std::vector<double>>& rows);

}  // namespace weft::scheduler
