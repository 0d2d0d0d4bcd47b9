// parallel/moe/gates/expert_choice.cpp - each expert takes its C best tokens of each routing group, C = ceil(f K n / E)
// (f = 1 where no capacity factor is set); a token may have none, or many. Source: arXiv:2202.09368.
// Balanced by construction, so there is no balance loss; a token's routing depends on later tokens.
#include "kernels/router.h"
#include "kernels/slots.h"
#include "kernels/topk.h"
#include "parallel/moe/gates/top_k.h"

namespace weft::parallel {
namespace {

template <class T>
class ExpertChoiceGate final : public Gate<T> {
 public:
  using Gate<T>::Gate;

  [[nodiscard]] GateNeeds needs() const override {
    GateNeeds needs;
    needs.form = RoutingForm::kSlotList;
    needs.count_exchange = false;
    needs.static_shapes = true;
    needs.later_tokens = true;
    return needs;
  }
  [[nodiscard]] TableShape table(std::int64_t rows) const override {
    return {rows / this->options().group_rows * slots(), this->moe().experts, slots()};
  }
  [[nodiscard]] std::int64_t max_rows_per_expert(std::int64_t rows) const override { return table(rows).rows; }
  [[nodiscard]] std::vector<GateTensor> tensors(std::int64_t rows) const override {
    using enum GateElement;
    using enum GateTensorLife;
    const std::int64_t entries = table(rows).rows * this->moe().experts, scores = rows * this->moe().experts;
    return {{kGateKept, "router kept", entries, kI32},
            {kGateWeight, "router weight", entries},
            {kGateSource, "router slots", entries, kI32},
            {kProbs, "router probs", scores},
            {kLse, "router lse", rows},
            {kLogits, "router logits", scores, kReal, kForward},
            {kDLogits, "d router logits", scores, kReal, kBackward}};
  }
  [[nodiscard]] std::vector<GatePhase<T>> forward(std::int64_t rows, bool counted) const override {
    GatePhase<T> phase;
    phase.label = "choose";
    phase.work = {scheduler::WorkKind::kGemm, flops(rows)};
    phase.writes = {kLogits, kProbs, kLse, kGateWeight, kGateSource, kGateKept};
    phase.run = [this, counted](GateCall<T>& call) {
      choose(call);
      if (counted) count(call);
    };
    return {std::move(phase)};
  }
  [[nodiscard]] std::vector<GatePhase<T>> backward(std::int64_t rows) const override {
    GatePhase<T> phase;
    phase.label = "choose";
    phase.work = {scheduler::WorkKind::kGemm, 2.0 * flops(rows)};
    phase.reads = {kProbs, kLse, kGateSource};
    phase.writes = {kDLogits};
    phase.run = [this](GateCall<T>& call) { choose_backward(call); };
    return {std::move(phase)};
  }

 private:
  static constexpr int kProbs = kGateOwn, kLse = kGateOwn + 1, kLogits = kGateOwn + 2, kDLogits = kGateOwn + 3;

  [[nodiscard]] std::int64_t slots() const {
    const double factor = this->moe().capacity_factor;
    return gate_capacity(factor > 0.0 ? factor : 1.0, this->moe(), this->options().group_tokens);
  }
  [[nodiscard]] double flops(std::int64_t rows) const {
    return 2.0 * static_cast<double>(rows) * this->options().model.model_dim * this->moe().experts;
  }
  template <class U>
  [[nodiscard]] Matrix<U> entries(const GateCall<T>& call, int id) const {
    return {call.template tensor<U>(id), table(call.x.rows).rows, this->moe().experts};
  }

  void choose(GateCall<T>& call) const {
    const std::int64_t rows = call.x.rows, experts = this->moe().experts;
    const Matrix<T> z(call.tensor(kLogits), rows, experts), probs(call.tensor(kProbs), rows, experts);
    linear_logits<T>(call, 0, z);
    kernels::softmax_forward<T>(call.stream, probs, call.tensor(kLse), z);
    kernels::expert_choice<T>(call.stream,
                              {entries<std::int32_t>(call, kGateSource), entries<std::int32_t>(call, kGateKept),
                               entries<T>(call, kGateWeight)},
                              probs, this->options().group_rows);
  }
  void count(const GateCall<T>& call) const {
    BalanceInput<T> in;
    in.probs = {call.tensor(kProbs), call.x.rows, this->moe().experts};
    in.lse = call.tensor(kLse);
    in.choice = in.kept = entries<std::int32_t>(call, kGateKept);
    count_balance(call, this->moe(), in);
  }
  void choose_backward(GateCall<T>& call) const {
    const std::int64_t rows = call.x.rows, experts = this->moe().experts;
    const Matrix<T> dz(call.tensor(kDLogits), rows, experts);
    const Matrix<const T> probs(call.tensor(kProbs), rows, experts);
    const Matrix<const std::int32_t> source = entries<std::int32_t>(call, kGateSource);
    std::fill_n(dz.data, rows * experts, T(0));
    for (std::int64_t d = 0; d < source.rows; ++d)
      for (std::int64_t e = 0; e < experts; ++e) dz.row(source.row(d)[e])[e] = call.d_weight[d * experts + e];
    kernels::softmax_backward<T>(call.stream, dz, dz, probs);
    if (this->moe().z_loss_coef != 0.0)
      kernels::router_z_backward<T>(call.stream, dz, probs, call.tensor(kLse),
                                    2.0 * this->moe().z_loss_coef / call.state->num_tokens);
    linear_logits_backward<T>(call, 0, dz);
  }
};

}  // namespace

GateEntry expert_choice_gate();
GateEntry expert_choice_gate() {
  return make_gate_entry<ExpertChoiceGate>(GateKind::kExpertChoice, "EXPERT_CHOICE",
                                           [](const ModelConfig& m) { return std::vector{router_weight(m)}; });
}

}  // namespace weft::parallel
