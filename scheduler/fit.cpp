#include "scheduler/fit.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "core/error.h"

namespace weft::scheduler {
namespace {

/// The normal equations of the weighted problem: columns operations / sqrt(t), amount / sqrt(t), right-hand side
/// sqrt(t).
struct Sums {
  double oo = 0.0, oa = 0.0, aa = 0.0, o = 0.0, a = 0.0;

  explicit Sums(const std::vector<Sample>& samples) {
    for (const Sample& s : samples) {
      oo += s.operations * s.operations / s.time_us;
      oa += s.operations * s.amount / s.time_us;
      aa += s.amount * s.amount / s.time_us;
      o += s.operations;
      a += s.amount;
    }
  }
};

/// Two unknowns: the free minimum if it is not negative, else the better one of the two edges of the quadrant.
LinearCost solve(const std::vector<Sample>& samples) {
  const Sums s(samples);
  const LinearCost only_alpha{s.oo > 0.0 ? s.o / s.oo : 0.0, 0.0}, only_beta{0.0, s.aa > 0.0 ? s.a / s.aa : 0.0};
  const double determinant = s.oo * s.aa - s.oa * s.oa;
  if (determinant > 1e-12 * s.oo * s.aa) {
    const LinearCost both{(s.o * s.aa - s.a * s.oa) / determinant, (s.a * s.oo - s.o * s.oa) / determinant};
    if (both.alpha_us >= 0.0 && both.beta_us >= 0.0) return both;
  }
  const auto gain = [&](const LinearCost& c) {  // what it takes off the sum of squares
    return c.alpha_us * s.o + c.beta_us * s.a;
  };
  return gain(only_beta) >= gain(only_alpha) ? only_beta : only_alpha;
}

double median_time(const std::vector<Sample>& samples) {
  std::vector<double> times;
  for (const Sample& s : samples) times.push_back(s.time_us);
  return quantile(std::move(times), 0.5);
}

std::optional<double> r_squared(const Fit& fit) {
  double mean = 0.0, residual = 0.0, total = 0.0;
  for (const Sample& s : fit.samples) mean += s.time_us / static_cast<double>(fit.samples.size());
  for (const Sample& s : fit.samples) {
    residual += fit.residual_us(s) * fit.residual_us(s);
    total += (s.time_us - mean) * (s.time_us - mean);
  }
  const double deviation = std::sqrt(total / static_cast<double>(fit.samples.size()));
  if (deviation <= kFlat * mean) return std::nullopt;
  return 1.0 - residual / total;
}

}  // namespace

int num_sizes(const std::vector<Sample>& samples) {
  std::vector<double> amounts;
  for (const Sample& s : samples) amounts.push_back(s.amount);
  std::sort(amounts.begin(), amounts.end());
  int sizes = 0;
  double last = 0.0;
  for (const double amount : amounts)
    if (sizes == 0 || amount > kSizeRatio * last) {
      last = amount;
      ++sizes;
    }
  return sizes;
}

Fit fit_linear(const std::vector<Sample>& samples, double alpha_hint_us) {
  Fit fit;
  for (const Sample& s : samples)
    if (s.time_us > 0.0 && std::isfinite(s.time_us)) fit.samples.push_back(s);
  if (fit.samples.empty()) return fit;
  const int sizes = num_sizes(fit.samples);
  if (sizes == 1) {
    const Sample& s = fit.samples.front();
    const double time = median_time(fit.samples), operations = std::max(1.0, s.operations);
    fit.cost.alpha_us = s.amount > 0.0 ? std::min(alpha_hint_us, time / operations) : time / operations;
    if (s.amount > 0.0) fit.cost.beta_us = std::max(0.0, time - fit.cost.alpha_us * s.operations) / s.amount;
    return fit;
  }
  fit.cost = solve(fit.samples);
  if (sizes >= 3) fit.r_squared = r_squared(fit);
  return fit;
}

double quantile(std::vector<double> values, double q) {
  WEFT_CHECK(!values.empty() && q >= 0.0 && q <= 1.0, "quantile: ", values.size(), " values, q = ", q);
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - static_cast<double>(low)) * (values[high] - values[low]);
}

}  // namespace weft::scheduler
