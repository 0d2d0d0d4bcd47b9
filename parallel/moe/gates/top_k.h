// parallel/moe/gates/top_k.h - what gates share that score all experts for a token and take the K best.
// Letters: T rows, E experts, K choices, M width.
#pragma once

#include <vector>

#include "kernels/router.h"
#include "parallel/moe/balance.h"
#include "parallel/moe/gate.h"

namespace weft::parallel {

/// probs = softmax(logits); the K best by probability, ties to the lower expert; weights by weighting(); capacity,
/// balance loss and z-loss. A gate of this kind says how logits come about. Sources: top-k gating, arXiv:1701.06538;
/// capacity, arXiv:2006.16668, algorithm 1.
template <class T>
class TopKGate : public Gate<T> {
 public:
  using Gate<T>::Gate;
  [[nodiscard]] GateNeeds needs() const override;
  [[nodiscard]] TableShape table(std::int64_t rows) const override;
  [[nodiscard]] std::vector<GateTensor> tensors(std::int64_t rows) const final;
  [[nodiscard]] std::vector<GatePhase<T>> forward(std::int64_t rows, bool counted) const final;
  [[nodiscard]] std::vector<GatePhase<T>> backward(std::int64_t rows) const final;
  [[nodiscard]] std::int64_t max_rows_per_expert(std::int64_t rows) const final;
  [[nodiscard]] bool balances() const final { return this->moe().balance_loss_coef != 0.0; }

 protected:
  static constexpr int kProbs = kGateOwn, kLse = kGateOwn + 1, kFraction = kGateOwn + 2, kLogits = kGateOwn + 3,
                       kDLogits = kGateOwn + 4, kShared = kGateOwn + 5, kOrder = kGateOwn + 6, kCounts = kGateOwn + 7,
                       kRankCounts = kGateOwn + 8, kMean = kGateOwn + 9,
                       kOwn = kGateOwn + 10;  ///< A gate's own tensors begin at kOwn.
  static_assert(kOwn + 10 <= kMaxGateTensors - 4);
  /// By MoeConfig::renormalize, unless the gate says otherwise.
  [[nodiscard]] virtual kernels::RouterWeighting weighting() const {
    using enum kernels::RouterWeighting;
    return this->moe().renormalize ? kRenormalized : kProbability;
  }
  /// z: [T, E].
  virtual void logits(GateCall<T>& call, Matrix<Wide<T>> z) const = 0;
  /// call.dx by call.dx_accumulate, and the parameters' gradients, from dz: [T, E].
  virtual void logits_backward(GateCall<T>& call, Matrix<const Wide<T>> dz) const = 0;
  /// FLOPs of logits().
  [[nodiscard]] virtual double logits_flops(std::int64_t rows) const {
    return 2.0 * static_cast<double>(rows) * this->options().model.model_dim * this->moe().experts;
  }
  /// Tensors that logits() leaves for logits_backward().
  [[nodiscard]] virtual std::vector<GateTensor> own_tensors(std::int64_t rows) const {
    static_cast<void>(rows);
    return {};
  }

 private:
  void route(GateCall<T>& call, bool drops) const;
  void count(GateCall<T>& call, bool counts_known) const;
  void route_backward(GateCall<T>& call) const;
  [[nodiscard]] std::int64_t capacity() const;
  [[nodiscard]] bool counts_running() const {
    return balances() && this->moe().balance_scope == BalanceScope::kGlobalRunning;
  }
  [[nodiscard]] GatePhase<T> running_phase() const;
  /// The balance loss is by the counts of each routing group.
  [[nodiscard]] bool counts_groups() const {
    return balances() && this->moe().balance_scope == BalanceScope::kRoutingGroup;
  }
  /// Ranks that share a routing group must know all its choices: for the capacity, or for the group's own counts.
  [[nodiscard]] bool shares(bool counted) const;
  [[nodiscard]] GatePhase<T> share_phase(std::int64_t rows) const;
  [[nodiscard]] GatePhase<T> drop_phase(bool counts_here) const;
  void drop_shared(GateCall<T>& call) const;
  void count_shared(GateCall<T>& call) const;
  void add_balance(std::vector<int>& writes) const;
  [[nodiscard]] BalanceInput<T> balance_input(const GateCall<T>& call) const;
};

/// The router's matrix [E, M], as "moe.gate.weight": the parameter of most gates.
[[nodiscard]] ParameterSpec router_weight(const ModelConfig& config);
/// z = x W^T with parameter `index` of the gate, and its backward.
template <class T>
void linear_logits(GateCall<T>& call, std::size_t index, Matrix<Wide<T>> z);
template <class T>
void linear_logits_backward(GateCall<T>& call, std::size_t index, Matrix<const Wide<T>> dz);

}  // namespace weft::parallel
