// parallel/moe/balance.h - how evenly a unit's choices fall on the experts: statistics, balance loss and z-loss.
// Sources: balance loss, arXiv:2101.03961 eq. 4-6; z-loss, arXiv:2202.08906 eq. 5.
// Letters: T rows of a unit, E experts of the whole group, K choices, G routing groups.
#pragma once

#include <cstdint>
#include <vector>

#include "core/matrix.h"
#include "parallel/moe/gate.h"

namespace weft::parallel {

/// What a unit's router did, as its losses need it.
template <class T>
struct BalanceInput {
  Matrix<const Wide<T>> probs;        ///< [T, E]
  const Wide<T>* lse = nullptr;       ///< [T] logsumexp of the logits.
  Matrix<const std::int32_t> choice;  ///< [T, K]
  Matrix<const std::int32_t> kept;    ///< [T, K]
  Matrix<double> fraction;            ///< [G, E] out: f_i as the loss's gradient needs it; null without a balance loss.
  Matrix<double> mean;                ///< [G, E] room for P_i; only with `fraction`.
  Matrix<double> counts;              ///< [G, E] choices of whole groups; only with `fraction` and kRoutingGroup.
  bool counted = false;               ///< `counts` are there; false: room for those of `choice`.
  std::int64_t group_tokens = 1;      ///< Tokens of a group, over all ranks that share it.
};

/// Puts the unit's counts and losses into call.statistics (when it has any) and adds its share to call.pooled; fills
/// `fraction`.
template <class T>
void count_balance(const GateCall<T>& call, const MoeConfig& config, const BalanceInput<T>& in);

/// dprobs of the balance loss: dprobs[t, e] = scale * fraction[g(t), e]. The fraction and scale that a gate hands to
/// kernels::router_backward.
struct BalanceGradient {
  Matrix<const double> fraction;  ///< [G, E]; null: no balance loss.
  double scale = 0.0;
};
[[nodiscard]] BalanceGradient balance_gradient(const MoeConfig& config, Matrix<const double> fraction,
                                               const PooledBalance& pooled, double num_groups,
                                               std::int64_t group_tokens);

}  // namespace weft::parallel
