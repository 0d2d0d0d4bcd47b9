// parallel/moe/gates/expert_choice.cpp - each expert takes its C best tokens of each routing group, C = ceil(f K n / E)
// (f = 1 where no capacity factor is set); a token may have none, or many. Source: arXiv:2202.09368.
// Balanced by construction, so there is no balance loss; a token's routing depends on later tokens.
#include "comm/communicator.h"
#include "kernels/router.h"
#include "kernels/slots.h"
#include "kernels/softmax.h"
#include "parallel/moe/gate_registry.h"
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
    needs.count_exchange = needs.collective = shared();  // whose tokens an expert takes, only the scores say
    needs.static_shapes = !shared();
    needs.travelling = 1.0 / this->options().layout.sequence_ranks;
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
    std::vector<GateTensor> out{{kGateKept, "router kept", entries, kI32},
                                {kGateWeight, "router weight", entries},
                                {kGateSource, "router slots", entries, kI32},
                                {kProbs, "router probs", scores},
                                {kLse, "router lse", rows},
                                {kLogits, "router logits", scores, kReal, kForward},
                                {kDLogits, "d router logits", scores, kReal, kBackward}};
    if (const int ranks = this->options().layout.sequence_ranks; shared()) {
      out.push_back({kShared, "router probs of the group", ranks * scores, kReal, kForward});
      out.push_back({kOrder, "order of the group", ranks * rows, kI32, kForward});
    }
    return out;
  }
  [[nodiscard]] std::vector<GatePhase<T>> forward(std::int64_t rows, bool counted) const override {
    GatePhase<T> score_phase, choose_phase;
    score_phase.label = "score";
    score_phase.work = {scheduler::WorkKind::kGemm, flops(rows)};
    score_phase.writes = {kLogits, kProbs, kLse};
    score_phase.run = [this](GateCall<T>& call) { score(call); };
    choose_phase.label = "choose";
    choose_phase.work = {scheduler::WorkKind::kNothing, 0.0};
    choose_phase.reads_hidden = false;
    choose_phase.reads = {kProbs, kLse};
    choose_phase.writes = {kGateWeight, kGateSource, kGateKept};
    if (shared()) {
      choose_phase.reads.push_back(kShared);
      choose_phase.writes.push_back(kOrder);
    }
    choose_phase.run = [this, counted](GateCall<T>& call) {
      choose(call);
      if (counted) count(call);
    };
    if (!shared()) return {std::move(score_phase), std::move(choose_phase)};
    return {std::move(score_phase), share_phase(rows), std::move(choose_phase)};
  }
  [[nodiscard]] std::vector<GatePhase<T>> backward(std::int64_t rows) const override {
    GatePhase<T> phase;
    phase.label = "choose";
    phase.work = {scheduler::WorkKind::kGemm, 2.0 * flops(rows)};
    phase.reads = {kProbs, kLse, kGateSource, kGateKept};
    phase.writes = {kDLogits};
    phase.run = [this](GateCall<T>& call) { choose_backward(call); };
    return {std::move(phase)};
  }

 private:
  static constexpr int kProbs = kGateOwn, kLse = kGateOwn + 1, kLogits = kGateOwn + 2, kDLogits = kGateOwn + 3,
                       kShared = kGateOwn + 4, kOrder = kGateOwn + 5;

  [[nodiscard]] bool shared() const { return this->options().layout.sequence_ranks > 1; }

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

  void score(GateCall<T>& call) const {
    const std::int64_t rows = call.x.rows, experts = this->moe().experts;
    const Matrix<Wide<T>> z(call.tensor(kLogits), rows, experts), probs(call.tensor(kProbs), rows, experts);
    linear_logits<T>(call, 0, z);
    kernels::softmax_forward<Wide<T>>(call.stream, probs, call.tensor(kLse), z);
  }
  /// The choice over whole groups; of the slots, those with this rank's tokens are filled.
  void choose(GateCall<T>& call) const {
    const std::int64_t rows = call.x.rows, experts = this->moe().experts;
    const kernels::SlotTable<Wide<T>> slots{entries<std::int32_t>(call, kGateSource),
                                            entries<std::int32_t>(call, kGateKept),
                                            entries<Wide<T>>(call, kGateWeight)};
    Matrix<const Wide<T>> scores(call.tensor(kProbs), rows, experts);
    kernels::RoutingGroups groups = kernels::RoutingGroups::whole(this->options().group_rows, rows);
    if (shared()) {
      scores = {call.tensor(kShared), this->options().layout.sequence_ranks * rows, experts};
      groups = shared_groups(call.stream, call.template tensor<std::int32_t>(kOrder), this->options(), call.ids, rows);
    }
    kernels::expert_choice<Wide<T>>(call.stream, slots, scores, groups);
  }
  /// kShared: [SP, T, E], the scores of every rank that shares the groups.
  [[nodiscard]] GatePhase<T> share_phase(std::int64_t rows) const {
    const int ranks = this->options().layout.sequence_ranks;
    const std::int64_t count = rows * this->moe().experts;
    GatePhase<T> phase;
    phase.label = "share scores";
    phase.work = {scheduler::WorkKind::kAllGather, double(count * (ranks - 1)) * sizeof(Wide<T>)};
    phase.group = GateGroup::kSequence;
    phase.reads_hidden = false;
    phase.reads = {kProbs};
    phase.writes = {kShared};
    phase.run = [ranks, count](GateCall<T>& call) {
      comm::all_gather(call.comms->sp(), comm::as_buffer(call.tensor(kProbs), count),
                       comm::as_buffer(call.tensor(kShared), ranks * count), call.stream);
    };
    return phase;
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
    const Matrix<Wide<T>> dz(call.tensor(kDLogits), rows, experts);
    const Matrix<const Wide<T>> probs(call.tensor(kProbs), rows, experts);
    const Matrix<const std::int32_t> source = entries<std::int32_t>(call, kGateSource);
    const Matrix<const std::int32_t> kept = entries<std::int32_t>(call, kGateKept);
    kernels::expert_choice_backward<Wide<T>>(
        call.stream, dz, {source, kept, Matrix<const Wide<T>>(call.d_weight, source.rows, experts)});
    kernels::softmax_backward<Wide<T>>(call.stream, dz, dz, probs);
    if (this->moe().z_loss_coef != 0.0)
      kernels::router_z_backward<Wide<T>>(call.stream, dz, probs, call.tensor(kLse),
                                          2.0 * this->moe().z_loss_coef / call.state->num_tokens);
    linear_logits_backward<T>(call, 0, dz);
  }
};

}  // namespace

GateEntry expert_choice_gate();
GateEntry expert_choice_gate() {
  GateEntry entry = gate_entry_of<ExpertChoiceGate>(
      "expert_choice",
      "Each expert takes its top tokens of the routing group, ceil(f * K * n / E) of n (f = 1 where capacity_factor is "
      "0). No balance loss. Needs allow_noncausal, and cannot generate.");
  entry.parameters = [](const ModelConfig& m) { return std::vector{router_weight(m)}; };
  return entry;
}

}  // namespace weft::parallel
