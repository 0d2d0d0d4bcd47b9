#include "parallel/moe/gate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/router.h"
#include "kernels/topk.h"

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

}  // namespace

template <class T>
std::int64_t SoftmaxTopKGate<T>::capacity() const {
  if (config_.capacity_factor <= 0.0) return 0;
  const double even = static_cast<double>(group_rows_) * config_.top_k / config_.experts;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(config_.capacity_factor * even - 1e-9)));
}

template <class T>
void SoftmaxTopKGate<T>::route(Stream& stream, const Routing<T>& out, Matrix<const T> logits) const {
  kernels::softmax_forward<T>(stream, out.probs, out.lse, logits);
  kernels::top_k<T>(stream, out.expert, out.probs);
  kernels::router_weights<T>(stream, out.weight, out.probs, out.expert, config_.renormalize);
  kernels::router_drop(stream, out.kept, out.expert, config_.experts, local_group_rows(), capacity());
}

template <class T>
void SoftmaxTopKGate<T>::balance(Stream& stream, const Routing<T>& out, const StepState& state, int layer,
                                 PooledBalance& pooled, RouterStatistics* statistics) const {
  const std::int64_t groups = out.probs.rows / local_group_rows(), experts = config_.experts;
  std::vector<std::int64_t> count(static_cast<std::size_t>(groups * experts)), kept(count.size());
  std::vector<double> mean(count.size());
  kernels::router_count(stream, {count.data(), groups, experts}, out.expert);
  kernels::router_count(stream, {kept.data(), groups, experts}, out.kept);
  if (needs_fraction()) {
    kernels::router_mean_probs<T>(stream, {mean.data(), groups, experts}, out.probs);
    for (double& m : mean) m /= sequence_ranks_;  // this rank's part of the group's mean
    fill_fractions(out.fraction, count, config_, state, layer);
    if (pooled.layers == 0) {
      pooled.fraction.assign(count.size(), 0.0);
      pooled.mean_prob.assign(count.size(), 0.0);
    }
    ++pooled.layers;
    for (std::size_t i = 0; i < count.size(); ++i) {
      pooled.fraction[i] += out.fraction.data[i];
      pooled.mean_prob[i] += mean[i];
    }
  }
  if (statistics == nullptr) return;
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t e = 0; e < experts; ++e) {
      statistics->choices[static_cast<std::size_t>(e)] +=
          static_cast<double>(count[static_cast<std::size_t>(g * experts + e)]);
      statistics->kept[static_cast<std::size_t>(e)] +=
          static_cast<double>(kept[static_cast<std::size_t>(g * experts + e)]);
    }
  const std::int64_t cells = groups * experts;
  if (needs_fraction() && config_.balance_form == BalanceForm::kPerLayer)
    statistics->balance_loss =
        config_.balance_loss_coef * double(experts) * dot(out.fraction.data, mean.data(), cells) / state.num_groups;
  if (needs_fraction() && config_.balance_form == BalanceForm::kHuggingFace) {
    // The pooled loss grows with every layer; a layer reports its share, the difference to the loss without it.
    const auto loss = [&](const std::vector<double>& f, const std::vector<double>& p, int layers) {
      return layers == 0 ? 0.0
                         : config_.balance_loss_coef * double(experts) * config_.top_k *
                               dot(f.data(), p.data(), cells) / (double(layers) * layers * state.num_groups);
    };
    std::vector<double> f = pooled.fraction, p = pooled.mean_prob;
    const double with = loss(f, p, pooled.layers);
    for (std::size_t i = 0; i < count.size(); ++i) {
      f[i] -= out.fraction.data[i];
      p[i] -= mean[i];
    }
    statistics->balance_loss = with - loss(f, p, pooled.layers - 1);
  }
  if (config_.z_loss_coef != 0.0) {
    double squares = 0.0;
    for (std::int64_t t = 0; t < out.probs.rows; ++t) squares += double(out.lse[t]) * double(out.lse[t]);
    statistics->z_loss = config_.z_loss_coef * squares / state.num_tokens;
  }
}

template <class T>
void SoftmaxTopKGate<T>::backward(Stream& stream, Matrix<T> d_logits, const Routing<T>& routing,
                                  Matrix<const T> d_weight, const StepState& state, const PooledBalance& pooled) const {
  const double experts = config_.experts;
  const double per_row = config_.balance_loss_coef * experts / (state.num_groups * static_cast<double>(group_rows_));
  kernels::RouterGradient<T> gradient{routing.probs, routing.expert,     routing.weight, d_weight, {},
                                      per_row,       config_.renormalize};
  if (needs_fraction()) {
    gradient.fraction = routing.fraction;
    if (config_.balance_form == BalanceForm::kHuggingFace) {
      gradient.fraction = {pooled.fraction.data(), routing.fraction.rows, routing.fraction.cols};
      gradient.scale = per_row * config_.top_k / (double(pooled.layers) * pooled.layers);
    }
  }
  kernels::router_backward<T>(stream, d_logits, gradient);
  kernels::softmax_backward<T>(stream, d_logits, d_logits, routing.probs);
  if (config_.z_loss_coef != 0.0)
    kernels::router_z_backward<T>(stream, d_logits, routing.probs, routing.lse,
                                  2.0 * config_.z_loss_coef / state.num_tokens);
}

template class SoftmaxTopKGate<float>;
template class SoftmaxTopKGate<double>;

}  // namespace weft::parallel
