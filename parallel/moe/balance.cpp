#include "parallel/moe/balance.h"

#include "kernels/reduce.h"
#include "kernels/router.h"

namespace weft::parallel {
namespace {

using kernels::Accumulate;

/// f_i of every group by scope: its own choices, those of the previous step, or of this step so far.
template <class T>
void fill_fractions(const GateCall<T>& call, const MoeConfig& config, const BalanceInput<T>& in) {
  const std::int64_t experts = in.fraction.cols;
  if (config.balance_scope == BalanceScope::kRoutingGroup) {
    if (!in.counted) kernels::router_count(call.stream, in.counts, in.choice);
    return kernels::router_fractions(call.stream, in.fraction, in.counts, 0.0);
  }
  const StepStatistics& steps = call.state->statistics;
  const double* given = config.balance_scope == BalanceScope::kGlobalPrevious ? steps.previous_choices(call.layer)
                                                                              : steps.running_choices(call.layer);
  kernels::router_fractions(call.stream, in.fraction, Matrix<const double>(given, 1, experts), 1.0 / double(experts));
}

/// The pooled loss grows with every layer; a layer's share is the difference to the loss without it.
template <class T>
void add_pooled(const GateCall<T>& call, const MoeConfig& config, const BalanceInput<T>& in) {
  PooledBalance& pooled = *call.pooled;
  const std::int64_t cells = in.fraction.rows * in.fraction.cols;
  const auto add_loss = [&](double sign, int layers, Accumulate accumulate) {
    if (!call.statistics) return;
    const double scale = config.balance_loss_coef * double(config.experts) * config.top_k /
                         (double(layers) * layers * call.state->num_groups);
    kernels::inner_product<double>(call.stream, call.statistics.balance_loss, pooled.fraction(), pooled.mean_prob(),
                                   cells, sign * scale, accumulate);
  };
  const bool first = pooled.layers == 0;
  if (!first) add_loss(-1.0, pooled.layers, Accumulate::kOverwrite);
  const auto add = [&](double* sum, const double* part) {
    if (first)
      kernels::copy<double>(call.stream, sum, part, cells);
    else
      kernels::axpy<double>(call.stream, sum, part, cells, 1.0);
  };
  add(pooled.fraction(), in.fraction.data);
  add(pooled.mean_prob(), in.mean.data);
  add_loss(1.0, ++pooled.layers, first ? Accumulate::kOverwrite : Accumulate::kAdd);
}

}  // namespace

template <class T>
void count_balance(const GateCall<T>& call, const MoeConfig& config, const BalanceInput<T>& in) {
  const StepState& state = *call.state;
  if (in.fraction.data != nullptr) {
    const std::int64_t groups = in.fraction.rows, experts = config.experts;
    // P_i is a mean over the group's tokens; where other ranks hold some of them, this is this rank's part of the sum.
    const double part = double(in.probs.rows / groups) / double(in.group_tokens);
    kernels::router_mean_probs<Wide<T>>(call.stream, in.mean, in.probs, part);
    fill_fractions(call, config, in);
    if (config.balance_form == BalanceForm::kHuggingFace)
      add_pooled(call, config, in);
    else if (call.statistics)
      kernels::inner_product<double>(call.stream, call.statistics.balance_loss, in.fraction.data, in.mean.data,
                                     groups * experts, config.balance_loss_coef * double(experts) / state.num_groups);
  }
  if (!call.statistics) return;
  kernels::router_count(call.stream, {call.statistics.choices, 1, config.experts}, in.choice);
  kernels::router_count(call.stream, {call.statistics.kept, 1, config.experts}, in.kept);
  if (config.z_loss_coef != 0.0 && in.lse != nullptr)
    kernels::sum_squares<Wide<T>>(call.stream, call.statistics.z_loss, in.lse, in.probs.rows,
                                  config.z_loss_coef / state.num_tokens);
}

BalanceGradient balance_gradient(const MoeConfig& config, Matrix<const double> fraction, const PooledBalance& pooled,
                                 double num_groups, std::int64_t group_tokens) {
  if (fraction.data == nullptr) return {};
  const double per_row = config.balance_loss_coef * config.experts / (num_groups * static_cast<double>(group_tokens));
  if (config.balance_form == BalanceForm::kPerLayer) return {fraction, per_row};
  return {{pooled.fraction(), fraction.rows, fraction.cols},
          per_row * config.top_k / (double(pooled.layers) * pooled.layers)};
}

template void count_balance(const GateCall<float>&, const MoeConfig&, const BalanceInput<float>&);
template void count_balance(const GateCall<double>&, const MoeConfig&, const BalanceInput<double>&);
template void count_balance(const GateCall<BF16>&, const MoeConfig&, const BalanceInput<BF16>&);

}  // namespace weft::parallel
