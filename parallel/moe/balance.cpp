#include "parallel/moe/balance.h"

#include <numeric>

#include "kernels/router.h"

namespace weft::parallel {
namespace {

/// f_i of every group by scope: its own choices, those of the previous step, or of this step so far.
void fill_fractions(Matrix<double> fraction, const std::vector<std::int64_t>& count, const MoeConfig& config,
                    const StepState& state, int layer) {
  const auto own = [&](std::int64_t g) {
    const std::int64_t* row = count.data() + g * fraction.cols;
    const double total = static_cast<double>(std::accumulate(row, row + fraction.cols, std::int64_t{0}));
    for (std::int64_t e = 0; e < fraction.cols; ++e) fraction.row(g)[e] = total > 0 ? double(row[e]) / total : 0.0;
  };
  const auto given = [&](std::int64_t g, const std::vector<double>& choices) {
    const double total = std::accumulate(choices.begin(), choices.end(), 0.0);
    for (std::int64_t e = 0; e < fraction.cols; ++e)
      fraction.row(g)[e] = total > 0 ? choices[static_cast<std::size_t>(e)] / total : 1.0 / double(fraction.cols);
  };
  for (std::int64_t g = 0; g < fraction.rows; ++g) {
    if (config.balance_scope == BalanceScope::kRoutingGroup)
      own(g);
    else
      given(g, config.balance_scope == BalanceScope::kGlobalPrevious
                   ? state.previous_choices[static_cast<std::size_t>(layer)]
                   : state.running_choices[static_cast<std::size_t>(layer)]);
  }
}

double dot(const double* a, const double* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// The pooled loss grows with every layer; a layer's share is the difference to the loss without it.
double pooled_share(const MoeConfig& config, const PooledBalance& pooled, Matrix<const double> fraction,
                    const std::vector<double>& mean, double num_groups) {
  const auto cells = static_cast<std::int64_t>(mean.size());
  const auto loss = [&](const std::vector<double>& f, const std::vector<double>& p, int layers) {
    return layers == 0 ? 0.0
                       : config.balance_loss_coef * double(config.experts) * config.top_k *
                             dot(f.data(), p.data(), cells) / (double(layers) * layers * num_groups);
  };
  std::vector<double> f = pooled.fraction, p = pooled.mean_prob;
  const double with = loss(f, p, pooled.layers);
  for (std::size_t i = 0; i < mean.size(); ++i) {
    f[i] -= fraction.data[i];
    p[i] -= mean[i];
  }
  return with - loss(f, p, pooled.layers - 1);
}

void pool(PooledBalance& pooled, Matrix<const double> fraction, const std::vector<double>& mean) {
  if (pooled.layers == 0) {
    pooled.fraction.assign(mean.size(), 0.0);
    pooled.mean_prob.assign(mean.size(), 0.0);
  }
  ++pooled.layers;
  for (std::size_t i = 0; i < mean.size(); ++i) {
    pooled.fraction[i] += fraction.data[i];
    pooled.mean_prob[i] += mean[i];
  }
}

/// Choices of each expert, of this rank's rows, into `out`.
void add_counts(Stream& stream, std::vector<double>& out, Matrix<const std::int32_t> expert) {
  std::vector<std::int64_t> count(out.size());
  kernels::router_count(stream, {count.data(), 1, static_cast<std::int64_t>(out.size())}, expert);
  for (std::size_t e = 0; e < out.size(); ++e) out[e] += static_cast<double>(count[e]);
}

}  // namespace

template <class T>
void count_balance(const GateCall<T>& call, const MoeConfig& config, BalanceInput<T>& in) {
  const StepState& state = *call.state;
  if (in.fraction.data != nullptr) {
    const std::int64_t groups = in.fraction.rows, experts = config.experts;
    if (in.counts.empty()) {
      in.counts.resize(static_cast<std::size_t>(groups * experts));
      kernels::router_count(call.stream, {in.counts.data(), groups, experts}, in.choice);
    }
    // P_i is a mean over the group's tokens; where other ranks hold some of them, this is this rank's part of the sum.
    std::vector<double> mean(in.counts.size());
    kernels::router_mean_probs<T>(call.stream, {mean.data(), groups, experts}, in.probs);
    const double part = double(in.probs.rows / groups) / double(in.group_tokens);
    for (double& m : mean) m *= part;
    fill_fractions(in.fraction, in.counts, config, state, call.layer);
    pool(*call.pooled, in.fraction, mean);
    if (call.statistics != nullptr)
      call.statistics->balance_loss =
          config.balance_form == BalanceForm::kPerLayer
              ? config.balance_loss_coef * double(experts) *
                    dot(in.fraction.data, mean.data(), static_cast<std::int64_t>(mean.size())) / state.num_groups
              : pooled_share(config, *call.pooled, in.fraction, mean, state.num_groups);
  }
  if (call.statistics == nullptr) return;
  add_counts(call.stream, call.statistics->choices, in.choice);
  add_counts(call.stream, call.statistics->kept, in.kept);
  if (config.z_loss_coef != 0.0 && in.lse != nullptr) {
    double squares = 0.0;
    for (std::int64_t t = 0; t < in.probs.rows; ++t) squares += double(in.lse[t]) * double(in.lse[t]);
    call.statistics->z_loss = config.z_loss_coef * squares / state.num_tokens;
  }
}

BalanceGradient balance_gradient(const MoeConfig& config, Matrix<const double> fraction, const PooledBalance& pooled,
                                 double num_groups, std::int64_t group_tokens) {
  if (fraction.data == nullptr) return {};
  const double per_row = config.balance_loss_coef * config.experts / (num_groups * static_cast<double>(group_tokens));
  if (config.balance_form == BalanceForm::kPerLayer) return {fraction, per_row};
  return {{pooled.fraction.data(), fraction.rows, fraction.cols},
          per_row * config.top_k / (double(pooled.layers) * pooled.layers)};
}

template void count_balance(const GateCall<float>&, const MoeConfig&, BalanceInput<float>&);
template void count_balance(const GateCall<double>&, const MoeConfig&, BalanceInput<double>&);

}  // namespace weft::parallel
