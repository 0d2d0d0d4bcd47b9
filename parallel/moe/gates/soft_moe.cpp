// parallel/moe/gates/soft_moe.cpp - slots are mixtures: a slot's input is a softmax over the routing group's tokens, a
// token's output a softmax over all slots. Nothing is dropped, nothing is discrete, and a token sees later ones. Where
// ranks share a group, the sums over its tokens (of the softmax, and of its gradient) are gathered from all of them.
// Source: arXiv:2308.00951, section 2.1: X' = D^T X, Y = C Y', D and C softmaxes of X Phi by columns and by rows.
#include "comm/communicator.h"
#include "core/error.h"
#include "kernels/reduce.h"
#include "kernels/slots.h"
#include "kernels/softmax.h"
#include "parallel/moe/dispatch_plan.h"
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
    needs.count_exchange = shared();  // whose slots a rank sends depends on its place among those that share them
    needs.static_shapes = !shared();
    needs.collective = shared();
    needs.travelling = 1.0 / this->options().layout.sequence_ranks;
    needs.later_tokens = true;
    return needs;
  }
  [[nodiscard]] TableShape table(std::int64_t rows) const override {
    return {rows / this->options().group_rows * slots_, this->moe().experts, slots_};
  }
  [[nodiscard]] std::int64_t max_rows_per_expert(std::int64_t rows) const override { return table(rows).rows; }
  [[nodiscard]] std::vector<GateTensor> tensors(std::int64_t rows) const override {
    using enum GateElement;
    using enum GateTensorLife;
    const std::int64_t weights = rows * columns(), per_group = groups(rows) * columns();
    const int ranks = this->options().layout.sequence_ranks;
    std::vector<GateTensor> out{{kGateKept, "router kept", table(rows).rows * this->moe().experts, kI32},
                                {kGateWeight, "router combine weights", weights, kRow},
                                {kGateMix, "router mix weights", weights, kRow},
                                {kLogits, "router logits", weights, kReal, kForward},
                                {kDLogits, "d router logits", weights, kReal, kBackward},
                                {kLse, "router slot lse", per_group, kReal, kForward},
                                {kDot, "d router slot sums", per_group, kReal, kBackward}};
    if (kNarrows) {
      out.push_back({kWeight, "router combine weights, wide", weights});
      out.push_back({kMix, "router mix weights, wide", weights});
    }
    if (shared()) out.push_back({kAllLse, "router slot lse of the group", ranks * per_group, kReal, kForward});
    return out;
  }
  [[nodiscard]] std::vector<GatePhase<T>> forward(std::int64_t rows, bool counted) const override {
    GatePhase<T> scores, mixes;
    scores.label = "score";
    scores.work = {scheduler::WorkKind::kGemm, flops(rows)};
    scores.writes = {kLogits, kGateWeight, kWeight, kLse};
    scores.run = [this](GateCall<T>& call) { score(call); };
    mixes.label = "mix";
    mixes.work = {scheduler::WorkKind::kMemory, 2.0 * double(rows * columns()) * sizeof(Wide<T>)};
    mixes.reads_hidden = false;
    mixes.reads = {kLogits};
    if (shared()) mixes.reads.push_back(kAllLse);
    mixes.writes = {kGateMix, kMix, kGateKept, kLse};
    mixes.run = [this, rows, counted](GateCall<T>& call) {
      mix(call, rows);
      if (counted) count(call, rows);
    };
    if (!shared()) return {std::move(scores), std::move(mixes)};
    return {std::move(scores), share_lse(rows), std::move(mixes)};
  }
  [[nodiscard]] std::vector<GatePhase<T>> backward(std::int64_t rows) const override {
    GatePhase<T> sums, phase;
    sums.label = "slot sums";
    sums.work = {scheduler::WorkKind::kMemory, 2.0 * double(rows * columns()) * sizeof(Wide<T>)};
    sums.reads_hidden = false;
    sums.reads = {kMix};
    sums.writes = {kDot};
    sums.run = [this, rows](GateCall<T>& call) {
      kernels::column_dot<Wide<T>>(call.stream, per_group(call, kDot, rows),
                                   Matrix<const Wide<T>>(call.d_mix, rows, columns()), matrix(call, kMix, rows),
                                   this->options().group_rows);
    };
    phase.label = "mix";
    phase.work = {scheduler::WorkKind::kGemm, 2.0 * flops(rows)};
    phase.reads = {kWeight, kMix, kDot};
    phase.writes = {kDLogits};
    phase.run = [this, rows](GateCall<T>& call) {
      const Matrix<Wide<T>> dz = matrix(call, kDLogits, rows);
      kernels::softmax_backward<Wide<T>>(call.stream, dz, Matrix<const Wide<T>>(call.d_weight, dz.rows, dz.cols),
                                         matrix(call, kWeight, rows));
      kernels::column_softmax_backward<Wide<T>>(
          call.stream, dz,
          {Matrix<const Wide<T>>(call.d_mix, dz.rows, dz.cols), matrix(call, kMix, rows), per_group(call, kDot, rows)},
          this->options().group_rows);
      linear_logits_backward<T>(call, 0, dz);
    };
    if (!shared()) return {std::move(sums), std::move(phase)};
    return {std::move(sums), share_sums(rows), std::move(phase)};
  }

 private:
  static constexpr int kLogits = kGateOwn, kDLogits = kGateOwn + 1, kLse = kGateOwn + 2, kAllLse = kGateOwn + 3,
                       kDot = kGateOwn + 4;
  /// The matrices as the router computes them: those that rows are multiplied with, unless rows are narrower.
  static constexpr bool kNarrows = !std::is_same_v<T, Wide<T>>;
  static constexpr int kWeight = kNarrows ? kGateOwn + 5 : kGateWeight, kMix = kNarrows ? kGateOwn + 6 : kGateMix;

  [[nodiscard]] bool shared() const { return this->options().layout.sequence_ranks > 1; }
  [[nodiscard]] std::int64_t groups(std::int64_t rows) const { return rows / this->options().group_rows; }
  [[nodiscard]] std::int64_t columns() const { return this->moe().experts * slots_; }
  [[nodiscard]] double flops(std::int64_t rows) const {
    return 2.0 * static_cast<double>(rows * this->options().model.model_dim * columns());
  }
  [[nodiscard]] Matrix<Wide<T>> matrix(const GateCall<T>& call, int id, std::int64_t rows) const {
    return {call.tensor(id), rows, columns()};
  }
  [[nodiscard]] Matrix<Wide<T>> per_group(const GateCall<T>& call, int id, std::int64_t rows) const {
    return {call.tensor(id), groups(rows), columns()};
  }
  /// The matrix as rows are multiplied with it, from the one the router computes.
  void narrow(const GateCall<T>& call, int to, int from, std::int64_t rows) const {
    if (to != from)
      kernels::narrow<T>(call.stream, {call.template tensor<T>(to), rows, columns()}, matrix(call, from, rows));
  }
  void score(GateCall<T>& call) const {
    const std::int64_t rows = call.x.rows;
    const Matrix<Wide<T>> z = matrix(call, kLogits, rows);
    linear_logits<T>(call, 0, z);
    kernels::softmax_forward<Wide<T>>(call.stream, matrix(call, kWeight, rows), nullptr, z);
    narrow(call, kGateWeight, kWeight, rows);
    kernels::column_logsumexp<Wide<T>>(call.stream, per_group(call, kLse, rows), z, this->options().group_rows);
  }
  /// kAllLse: [SP, G, S], of the tokens of every rank that shares the groups.
  [[nodiscard]] GatePhase<T> share_lse(std::int64_t rows) const {
    const int ranks = this->options().layout.sequence_ranks;
    const std::int64_t n = groups(rows) * columns();
    GatePhase<T> phase;
    phase.label = "share lse";
    phase.work = {scheduler::WorkKind::kAllGather, double(n * (ranks - 1)) * sizeof(Wide<T>)};
    phase.group = GateGroup::kSequence;
    phase.reads_hidden = false;
    phase.reads = {kLse};
    phase.writes = {kAllLse};
    phase.run = [ranks, n](GateCall<T>& call) {
      comm::all_gather(call.comms->sp(), comm::as_buffer(call.tensor(kLse), n),
                       comm::as_buffer(call.tensor(kAllLse), ranks * n), call.stream);
    };
    return phase;
  }
  /// The sums over a group's tokens, of all its ranks.
  [[nodiscard]] GatePhase<T> share_sums(std::int64_t rows) const {
    const std::int64_t n = groups(rows) * columns();
    GatePhase<T> phase;
    phase.label = "share slot sums";
    phase.work = {scheduler::WorkKind::kAllReduce, double(n) * sizeof(Wide<T>)};
    phase.group = GateGroup::kSequence;
    phase.reads_hidden = false;
    phase.writes = {kDot};
    phase.run = [n](GateCall<T>& call) {
      const comm::Buffer sums = comm::as_buffer(call.tensor(kDot), n);
      call.comms->sp().all_reduce(sums, sums, comm::ReduceOp::kSum, call.stream);
    };
    return phase;
  }
  void mix(GateCall<T>& call, std::int64_t rows) const {
    const Matrix<Wide<T>> lse = per_group(call, kLse, rows);
    const int ranks = this->options().layout.sequence_ranks;
    if (shared())  // in the order of ranks: the same bits on all of them
      kernels::merge_logsumexp<Wide<T>>(call.stream, lse.data,
                                        Matrix<const Wide<T>>(call.tensor(kAllLse), ranks, lse.rows * lse.cols));
    kernels::column_softmax_forward<Wide<T>>(call.stream, matrix(call, kMix, rows), matrix(call, kLogits, rows), lse,
                                             this->options().group_rows);
    narrow(call, kGateMix, kMix, rows);
    // Of slots that ranks share, each sends those of its own experts (dispatchers/shared_slots.cpp).
    const std::vector<std::int64_t> owners = chunk_cuts(this->moe().experts, ranks);
    const auto rank = static_cast<std::size_t>(call.ids.sp_rank);
    kernels::keep_experts(call.stream, kept(call, rows), owners[rank], owners[rank + 1]);
  }
  [[nodiscard]] Matrix<std::int32_t> kept(const GateCall<T>& call, std::int64_t rows) const {
    return {call.template tensor<std::int32_t>(kGateKept), table(rows).rows, this->moe().experts};
  }
  void count(const GateCall<T>& call, std::int64_t rows) const {
    BalanceInput<T> in;
    in.choice = in.kept = kept(call, rows);
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
