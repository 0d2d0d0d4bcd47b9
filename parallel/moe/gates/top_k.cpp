#include "parallel/moe/gates/top_k.h"

#include "comm/communicator.h"
#include "kernels/gemm.h"
#include "kernels/reduce.h"
#include "kernels/softmax.h"

namespace weft::parallel {

using kernels::Accumulate;
using kernels::RouterWeighting;
using scheduler::WorkKind;

template <class T>
GateNeeds TopKGate<T>::needs() const {
  GateNeeds needs;
  needs.collective = counts_running() || shares(true);
  return needs;
}

template <class T>
TableShape TopKGate<T>::table(std::int64_t rows) const {
  return {rows, this->moe().top_k, this->options().group_rows};
}

template <class T>
std::int64_t TopKGate<T>::capacity() const {
  const double factor = this->moe().capacity_factor;
  return factor > 0.0 ? gate_capacity(factor, this->moe(), this->options().group_tokens) : 0;
}

template <class T>
std::int64_t TopKGate<T>::max_rows_per_expert(std::int64_t rows) const {
  return capacity() * (rows / this->options().group_rows);
}

template <class T>
std::vector<GateTensor> TopKGate<T>::tensors(std::int64_t rows) const {
  using enum GateElement;
  using enum GateTensorLife;
  const std::int64_t experts = this->moe().experts, choices = rows * this->moe().top_k;
  std::vector<GateTensor> out{{kGateKept, "router kept", choices, kI32},
                              {kGateWeight, "router weight", choices},
                              {kGateChoice, "router choice", choices, kI32},
                              {kProbs, "router probs", rows * experts},
                              {kLse, "router lse", rows},
                              {kLogits, "router logits", rows * experts, kReal, kForward},
                              {kDLogits, "d router logits", rows * experts, kReal, kBackward}};
  const int ranks = this->options().layout.sequence_ranks;
  if (shares(true)) {
    out.push_back({kShared, "router choices of the group", ranks * choices, kI32, kForward});
    out.push_back({kOrder, "order of the group", ranks * rows, kI32, kForward});
  }
  if (balances() && this->options().training) {
    const std::int64_t cells = rows / this->options().group_rows * experts;
    out.push_back({kFraction, "balance fractions", cells, kF64, kFirstPass});
    out.push_back({kCounts, "balance counts", cells, kF64, kForward});
    if (ranks > 1 && counts_groups())
      out.push_back({kRankCounts, "balance counts by rank", ranks * cells, kF64, kForward});
    out.push_back({kMean, "balance mean probs", cells, kF64, kForward});
  }
  for (const GateTensor& tensor : own_tensors(rows)) out.push_back(tensor);
  return out;
}

/// What counting the balance writes.
template <class T>
void TopKGate<T>::add_balance(std::vector<int>& writes) const {
  writes.insert(writes.end(), {kFraction, kCounts, kMean});
}

template <class T>
BalanceInput<T> TopKGate<T>::balance_input(const GateCall<T>& call) const {
  const std::int64_t rows = call.x.rows, experts = this->moe().experts, k = this->moe().top_k;
  BalanceInput<T> in;
  in.probs = {call.tensor(kProbs), rows, experts};
  in.lse = call.tensor(kLse);
  in.choice = {call.template tensor<std::int32_t>(kGateChoice), rows, k};
  in.kept = {call.template tensor<std::int32_t>(kGateKept), rows, k};
  const auto of_groups = [&](int id) {
    return Matrix<double>(call.template tensor<double>(id), rows / this->options().group_rows, experts);
  };
  in.fraction = of_groups(kFraction);
  in.mean = of_groups(kMean);
  in.counts = of_groups(kCounts);
  in.group_tokens = this->options().group_tokens;
  return in;
}

template <class T>
void TopKGate<T>::count(GateCall<T>& call, bool counts_known) const {
  BalanceInput<T> in = balance_input(call);
  in.counted = counts_known;
  count_balance(call, this->moe(), in);
}

template <class T>
void TopKGate<T>::route(GateCall<T>& call, bool drops) const {
  const std::int64_t rows = call.x.rows, experts = this->moe().experts, k = this->moe().top_k;
  const Matrix<Wide<T>> z(call.tensor(kLogits), rows, experts);
  const Matrix<std::int32_t> choice(call.template tensor<std::int32_t>(kGateChoice), rows, k);
  logits(call, z);
  kernels::route_top_k<Wide<T>>(
      call.stream,
      {{call.tensor(kProbs), rows, experts}, call.tensor(kLse), choice, {call.tensor(kGateWeight), rows, k}}, z,
      weighting());
  if (drops)
    kernels::router_drop(call.stream, {call.template tensor<std::int32_t>(kGateKept), rows, k}, choice, experts,
                         kernels::RoutingGroups::whole(this->options().group_rows, rows), capacity());
}

template <class T>
bool TopKGate<T>::shares(bool counted) const {
  if (this->options().layout.sequence_ranks == 1) return false;
  return capacity() > 0 || (counted && counts_groups());
}

/// kShared: [SP, T, K], the choices of every rank that shares the groups.
template <class T>
GatePhase<T> TopKGate<T>::share_phase(std::int64_t rows) const {
  const int ranks = this->options().layout.sequence_ranks;
  const std::int64_t count = rows * this->moe().top_k;
  GatePhase<T> phase;
  phase.label = "share choices";
  phase.work = {WorkKind::kAllGather, double(count * (ranks - 1)) * sizeof(std::int32_t)};
  phase.group = GateGroup::kSequence;
  phase.reads_hidden = false;
  phase.reads = {kGateChoice};
  phase.writes = {kShared};
  phase.run = [ranks, count](GateCall<T>& call) {
    comm::all_gather(call.comms->sp(), comm::as_buffer(call.template tensor<std::int32_t>(kGateChoice), count),
                     comm::as_buffer(call.template tensor<std::int32_t>(kShared), ranks * count), call.stream);
  };
  return phase;
}

/// Capacity over whole groups, in order of (choice, position in the group).
template <class T>
void TopKGate<T>::drop_shared(GateCall<T>& call) const {
  const std::int64_t rows = call.x.rows, k = this->moe().top_k;
  const Matrix<const std::int32_t> shared(call.template tensor<std::int32_t>(kShared),
                                          this->options().layout.sequence_ranks * rows, k);
  const kernels::RoutingGroups groups =
      shared_groups(call.stream, call.template tensor<std::int32_t>(kOrder), this->options(), call.ids, rows);
  kernels::router_drop(call.stream, {call.template tensor<std::int32_t>(kGateKept), rows, k}, shared,
                       this->moe().experts, groups, capacity());
}

/// The counts of whole groups.
template <class T>
void TopKGate<T>::count_shared(GateCall<T>& call) const {
  const std::int64_t ranks = this->options().layout.sequence_ranks;
  const Matrix<double> counts = balance_input(call).counts;
  const Matrix<double> by_rank(call.template tensor<double>(kRankCounts), ranks, counts.rows * counts.cols);
  kernels::router_count(
      call.stream, {by_rank.data, ranks * counts.rows, counts.cols},
      {call.template tensor<std::int32_t>(kShared), ranks * call.x.rows, std::int64_t{this->moe().top_k}});
  kernels::sum_rows<double>(call.stream, counts.data, by_rank, Accumulate::kOverwrite);
}

template <class T>
GatePhase<T> TopKGate<T>::drop_phase(bool counts_here) const {
  GatePhase<T> phase;
  phase.label = "drop";
  phase.work = {WorkKind::kNothing, 0.0};
  phase.reads_hidden = false;
  phase.reads = {kShared, kProbs, kLse, kGateChoice};
  phase.writes = {kOrder, kGateKept};
  if (counts_here && balances()) add_balance(phase.writes);
  const bool counts_shared = counts_here && counts_groups();
  if (counts_shared) phase.writes.push_back(kRankCounts);
  phase.run = [this, counts_here, counts_shared](GateCall<T>& call) {
    drop_shared(call);
    if (counts_shared) count_shared(call);
    if (counts_here) count(call, counts_shared);
  };
  return phase;
}

/// Counts of this step so far, over all ranks: what BalanceScope::kGlobalRunning takes for f.
template <class T>
GatePhase<T> TopKGate<T>::running_phase() const {
  GatePhase<T> phase;
  phase.label = "running counts";
  phase.work = {WorkKind::kAllReduce, 2.0 * double(this->moe().experts) * sizeof(double)};
  phase.group = GateGroup::kWorld;
  phase.reads_hidden = false;
  phase.reads = {kProbs, kLse, kGateChoice, kGateKept};
  add_balance(phase.writes);
  phase.run = [this](GateCall<T>& call) {
    const auto experts = static_cast<std::int64_t>(this->moe().experts);
    const BalanceInput<T> in = balance_input(call);
    kernels::router_count(call.stream, {in.counts.data, 1, experts}, in.choice);
    sum_in_place(call.comms->world(), comm::as_buffer(in.counts.data, experts), call.stream);
    kernels::axpy<double>(call.stream, call.state->statistics.running_choices(call.layer), in.counts.data, experts,
                          1.0);
    count(call, false);
  };
  return phase;
}

template <class T>
std::vector<GatePhase<T>> TopKGate<T>::forward(std::int64_t rows, bool counted) const {
  const bool counts_here = counted && !counts_running(), shared = shares(counted);
  GatePhase<T> phase;
  phase.label = "route";
  phase.work = {WorkKind::kGemm, logits_flops(rows)};
  phase.writes = {kLogits, kProbs, kLse, kGateWeight, kGateChoice};
  if (!shared) phase.writes.push_back(kGateKept);
  if (!shared && counts_here && balances()) add_balance(phase.writes);
  for (const GateTensor& tensor : own_tensors(rows))
    if (tensor.life != GateTensorLife::kBackward) phase.writes.push_back(tensor.id);
  phase.run = [this, counts_here, shared](GateCall<T>& call) {
    route(call, !shared);
    if (counts_here && !shared) count(call, false);
  };
  std::vector<GatePhase<T>> phases{std::move(phase)};
  if (shared) {
    phases.push_back(share_phase(rows));
    phases.push_back(drop_phase(counts_here));
  }
  if (counted && counts_running()) phases.push_back(running_phase());
  return phases;
}

template <class T>
void TopKGate<T>::route_backward(GateCall<T>& call) const {
  const std::int64_t rows = call.x.rows, experts = this->moe().experts, k = this->moe().top_k;
  const bool sigmoid = weighting() == RouterWeighting::kSigmoid;
  const BalanceInput<T> in = balance_input(call);
  const Matrix<const Wide<T>> weight(call.tensor(kGateWeight), rows, k), d_weight(call.d_weight, rows, k);
  const Matrix<Wide<T>> dz(call.tensor(kDLogits), rows, experts);
  const BalanceGradient balance =
      balance_gradient(this->moe(), in.fraction, *call.pooled, call.state->num_groups, in.group_tokens);
  kernels::RouterGradient<Wide<T>> gradient{in.probs,
                                            in.choice,
                                            weight,
                                            d_weight,
                                            balance.fraction,
                                            balance.scale,
                                            weighting() == RouterWeighting::kRenormalized};
  if (sigmoid) {  // the weights do not come from the probabilities: of these, the balance loss alone
    gradient.expert.cols = gradient.weight.cols = gradient.d_weight.cols = 0;
  }
  kernels::router_backward<Wide<T>>(call.stream, dz, gradient);
  kernels::softmax_backward<Wide<T>>(call.stream, dz, dz, in.probs);
  if (sigmoid) kernels::router_sigmoid_backward<Wide<T>>(call.stream, dz, weight, d_weight, in.choice);
  if (this->moe().z_loss_coef != 0.0)
    kernels::router_z_backward<Wide<T>>(call.stream, dz, in.probs, in.lse,
                                        2.0 * this->moe().z_loss_coef / call.state->num_tokens);
  logits_backward(call, dz);
}

template <class T>
std::vector<GatePhase<T>> TopKGate<T>::backward(std::int64_t rows) const {
  GatePhase<T> phase;
  phase.label = "route";
  phase.work = {WorkKind::kGemm, 2.0 * logits_flops(rows)};
  phase.reads = {kProbs, kLse, kGateChoice, kGateWeight, kFraction};
  phase.writes = {kDLogits};
  for (const GateTensor& tensor : own_tensors(rows))
    (tensor.life == GateTensorLife::kBackward ? phase.writes : phase.reads).push_back(tensor.id);
  phase.run = [this](GateCall<T>& call) { route_backward(call); };
  return {std::move(phase)};
}

ParameterSpec router_weight(const ModelConfig& config) {
  return {"moe.gate.weight", config.moe.experts, config.model_dim};
}

template <class T>
void linear_logits(GateCall<T>& call, std::size_t index, Matrix<Wide<T>> z) {
  kernels::linear_forward_wide<T>(call.stream, z, call.x,
                                  Matrix<const T>(call.parameters[index].weight, z.cols, call.x.cols));
}

template <class T>
void linear_logits_backward(GateCall<T>& call, std::size_t index, Matrix<const Wide<T>> dz) {
  const Parameter<T>& w = call.parameters[index];
  kernels::linear_backward_input_wide<T>(call.stream, call.dx, dz, Matrix<const T>(w.weight, dz.cols, call.x.cols),
                                         call.dx_accumulate);
  kernels::linear_backward_weight_wide<T>(call.stream, {w.grad, dz.cols, call.x.cols}, dz, call.x, call.accumulate);
}

#define WEFT_INSTANTIATE(T)                                                \
  template class TopKGate<T>;                                              \
  template void linear_logits(GateCall<T>&, std::size_t, Matrix<Wide<T>>); \
  template void linear_logits_backward(GateCall<T>&, std::size_t, Matrix<const Wide<T>>);
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
