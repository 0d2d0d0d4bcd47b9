// parallel/moe/gate.h - routers: which experts each token goes to, and with what weight.
// Letters: T rows of a sub-batch, E experts of the whole group (never the local ones), K choices, G routing groups.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/matrix.h"
#include "core/stream.h"
#include "parallel/model/model_config.h"
#include "parallel/step/step_state.h"

namespace weft::parallel {

/// What a gate makes of the logits of one sub-batch. Memory is the caller's.
template <class T>
struct Routing {
  Matrix<T> probs;              ///< [T, E]
  T* lse = nullptr;             ///< [T] logsumexp of the logits, for the z-loss.
  Matrix<std::int32_t> expert;  ///< [T, K] choices, best first, distinct in a row; ties go to the lower expert.
  Matrix<std::int32_t> kept;    ///< [T, K] the same, -1 past an expert's capacity.
  Matrix<T> weight;             ///< [T, K] factor on the expert's output, before drops.
  Matrix<double> fraction;      ///< [G, E] f_i of the balance loss as its gradient needs it.
};

/// Balance of one unit over all layers so far, for BalanceForm::kHuggingFace.
struct PooledBalance {
  std::vector<double> fraction, mean_prob;  ///< [G * E] sums over layers.
  int layers = 0;
};

/// The softmax top-k router: probs = softmax(x Wg^T); the K best; weights renormalised or not.
/// Sources: top-k gating, arXiv:1701.06538; balance loss, arXiv:2101.03961 eq. 4-6; z-loss, arXiv:2202.08906 eq. 5.
template <class T>
class SoftmaxTopKGate {
 public:
  /// group_rows: of a routing group, all told; sequence_ranks: SP ranks that hold an equal part of them each.
  SoftmaxTopKGate(const MoeConfig& config, std::int64_t group_rows, int sequence_ranks = 1)
      : config_(config), group_rows_(group_rows), sequence_ranks_(sequence_ranks) {}

  /// logits: [T, E]. Fills `out` but for `fraction`. Asynchronous on `stream`, as kernels are.
  void route(Stream& stream, const Routing<T>& out, Matrix<const T> logits) const;

  /// Counts and losses of the unit into `statistics` (when not null), and f_i into out.fraction, by the balance scope.
  void balance(Stream& stream, const Routing<T>& out, const StepState& state, int layer, PooledBalance& pooled,
               RouterStatistics* statistics) const;

  /// d_logits: [T, E] from d_weight: [T, K], plus the gradients of balance loss and z-loss.
  void backward(Stream& stream, Matrix<T> d_logits, const Routing<T>& routing, Matrix<const T> d_weight,
                const StepState& state, const PooledBalance& pooled) const;

  /// Choices an expert may keep per routing group: ceil(f * K * n / E); 0: all.
  [[nodiscard]] std::int64_t capacity() const;
  [[nodiscard]] bool needs_fraction() const { return config_.balance_loss_coef != 0.0; }

 private:
  [[nodiscard]] std::int64_t local_group_rows() const { return group_rows_ / sequence_ranks_; }

  MoeConfig config_;
  std::int64_t group_rows_;
  int sequence_ranks_;
};

}  // namespace weft::parallel
