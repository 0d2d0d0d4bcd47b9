// parallel/moe/gates/soft_moe.cpp - slots are mixtures: a slot's input is a softmax over the routing group's tokens, a
// token's output a softmax over all slots. Nothing is dropped, nothing is discrete, and a token sees later ones.
// Source: arXiv:2308.00951, section 2.1: X' = D^T X, Y = C Y', D and C softmaxes of X Phi by columns and by rows.
#include "core/error.h"
#include "kernels/slots.h"
#include "kernels/topk.h"
#include "parallel/moe/gate_registry.h"
#include "parallel/moe/gates/top_k.h"

namespace weft::parallel {
namespace {

constexpr std::string_view kSlots = "slots_per_expert";

template <class T>
class SoftMoeGate final : public Gate<T> {
 public:
  explicit SoftMoeGate(const GateOptions& options)
      : Gate<T>(options), slots_(static_cast<std::int64_t>(gate_option(options.model.moe, kSlots))) {}

  [[nodiscard]] GateNeeds needs() const override {
    GateNeeds needs;
    needs.form = RoutingForm::kSlotMatrix;
    needs.count_exchange = false;
    needs.static_shapes = true;
    needs.later_tokens = true;
    needs.shared_groups = false;  // its slots would have to be summed over the ranks first
    return needs;
  }
  [[nodiscard]] TableShape table(std::int64_t rows) const override {
    return {rows / this->options().group_rows * slots_, this->moe().experts, slots_};
  }
  [[nodiscard]] std::int64_t max_rows_per_expert(std::int64_t rows) const override { return table(rows).rows; }
  [[nodiscard]] std::vector<GateTensor> tensors(std::int64_t rows) const override {
    using enum GateElement;
    using enum GateTensorLife;
    const std::int64_t weights = rows * columns();
    return {{kGateKept, "router kept", table(rows).rows * this->moe().experts, kI32},
            {kGateWeight, "router combine weights", weights},
            {kGateMix, "router mix weights", weights},
            {kLogits, "router logits", weights, kReal, kForward},
            {kDLogits, "d router logits", weights, kReal, kBackward}};
  }
  [[nodiscard]] std::vector<GatePhase<T>> forward(std::int64_t rows, bool counted) const override {
    GatePhase<T> phase;
    phase.label = "mix";
    phase.work = {scheduler::WorkKind::kGemm, flops(rows)};
    phase.writes = {kLogits, kGateWeight, kGateMix, kGateKept};
    phase.run = [this, counted](GateCall<T>& call) {
      mix(call);
      if (counted) count(call);
    };
    return {std::move(phase)};
  }
  [[nodiscard]] std::vector<GatePhase<T>> backward(std::int64_t rows) const override {
    GatePhase<T> phase;
    phase.label = "mix";
    phase.work = {scheduler::WorkKind::kGemm, 2.0 * flops(rows)};
    phase.reads = {kGateWeight, kGateMix};
    phase.writes = {kDLogits};
    phase.run = [this](GateCall<T>& call) {
      const Matrix<T> dz = matrix(call, kDLogits);
      kernels::softmax_backward<T>(call.stream, dz, Matrix<const T>(call.d_weight, dz.rows, dz.cols),
                                   matrix(call, kGateWeight));
      kernels::column_softmax_backward<T>(call.stream, dz, Matrix<const T>(call.d_mix, dz.rows, dz.cols),
                                          matrix(call, kGateMix), this->options().group_rows);
      linear_logits_backward<T>(call, 0, dz);
    };
    return {std::move(phase)};
  }

 private:
  static constexpr int kLogits = kGateOwn, kDLogits = kGateOwn + 1;

  [[nodiscard]] std::int64_t columns() const { return this->moe().experts * slots_; }
  [[nodiscard]] double flops(std::int64_t rows) const {
    return 2.0 * static_cast<double>(rows * this->options().model.model_dim * columns());
  }
  [[nodiscard]] Matrix<T> matrix(const GateCall<T>& call, int id) const {
    return {call.tensor(id), call.x.rows, columns()};
  }
  [[nodiscard]] Matrix<std::int32_t> kept(const GateCall<T>& call) const {
    return {call.template tensor<std::int32_t>(kGateKept), table(call.x.rows).rows, this->moe().experts};
  }
  void mix(GateCall<T>& call) const {
    const Matrix<T> z = matrix(call, kLogits);
    linear_logits<T>(call, 0, z);
    kernels::softmax_forward<T>(call.stream, matrix(call, kGateWeight), nullptr, z);
    kernels::column_softmax_forward<T>(call.stream, matrix(call, kGateMix), z, this->options().group_rows);
    const Matrix<std::int32_t> table = kept(call);
    for (std::int64_t d = 0; d < table.rows; ++d)
      for (std::int64_t e = 0; e < table.cols; ++e) table.row(d)[e] = static_cast<std::int32_t>(e);
  }
  void count(const GateCall<T>& call) const {
    BalanceInput<T> in;
    in.choice = in.kept = kept(call);
    count_balance(call, this->moe(), in);
  }

  std::int64_t slots_;  ///< C
};

std::vector<ParameterSpec> parameters(const ModelConfig& config) {
  const auto slots = static_cast<std::int64_t>(gate_option(config.moe, kSlots));
  return {{"moe.gate.weight", config.moe.experts * slots, config.model_dim}};
}

std::vector<std::string> check(const ModelConfig& config) {
  if (config.moe.z_loss_coef == 0.0) return {};
  return {str("model.moe.z_loss_coef = ", config.moe.z_loss_coef, ": gate soft_moe has no z-loss; set it to 0")};
}

}  // namespace

GateEntry soft_moe_gate();
GateEntry soft_moe_gate() {
  GateEntry entry =
      gate_entry_of<SoftMoeGate>("soft_moe",
                                 "Slots that are softmax mixtures of the routing group's tokens; nothing is dropped. "
                                 "No balance loss, no z-loss. Needs allow_noncausal, and cannot generate.");
  entry.parameters = parameters;
  entry.options = {{kSlots, 1, 1, 1e6, true, "slots of each expert in each routing group"}};
  entry.check = check;
  return entry;
}

}  // namespace weft::parallel
