// scheduler/fit.h - least squares of t = alpha * operations + beta * amount.
// Source of the form: FSMoE (arXiv:2501.10714), section 4.1; Hockney, "The communication challenge for MPP", Parallel
// Computing 20(3), 1994.
#pragma once

#include <optional>
#include <vector>

namespace weft::scheduler {

struct LinearCost {
  double alpha_us = 0.0;  ///< Per operation.
  double beta_us = 0.0;   ///< Per FLOP or byte.
  [[nodiscard]] double at(double operations, double amount) const { return alpha_us * operations + beta_us * amount; }
  friend bool operator==(const LinearCost&, const LinearCost&) = default;
};

/// One measured time.
struct Sample {
  double operations = 1.0;
  double amount = 0.0;  ///< FLOPs or bytes.
  double time_us = 0.0;
  friend bool operator==(const Sample&, const Sample&) = default;
};

struct Fit {
  LinearCost cost;
  /// 1 - sum of squared residuals over sum of squared deviations from the mean, both in plain (unweighted)
  /// microseconds. Nothing when it would say nothing: the samples have fewer than three sizes, through which there is
  /// always a line, or the times hardly differ (kFlat), so that it would compare noise with noise.
  std::optional<double> r_squared;
  std::vector<Sample> samples;

  [[nodiscard]] double residual_us(const Sample& s) const { return s.time_us - cost.at(s.operations, s.amount); }
};

/// A fit with less than this explains too little of what was measured to plan with, unless told otherwise.
inline constexpr double kMinRSquared = 0.5;

/// Sizes that differ by less than this factor are one size: they say nothing about the slope.
inline constexpr double kSizeRatio = 1.25;

/// How many sizes the amounts of `samples` come in.
[[nodiscard]] int num_sizes(const std::vector<Sample>& samples);

/// Times whose standard deviation is less than this share of their mean hardly differ.
inline constexpr double kFlat = 0.3;

/// Minimises sum_i (alpha * operations_i + beta * amount_i - t_i)^2 / t_i over alpha, beta >= 0. Plain squares would
/// drown the smallest sizes in the noise of the largest; relative ones would bend the line of a transfer that is flat
/// up to some size to many small sizes. Samples of one size: alpha is `alpha_hint_us` where the time allows it, and
/// beta the rest. Samples without a positive time are left out; none left: a fit of zeros without samples.
[[nodiscard]] Fit fit_linear(const std::vector<Sample>& samples, double alpha_hint_us = 0.0);

/// The q-quantile of `values`, between neighbours by their distance; q in [0, 1], at least one value. Throws
/// kInvalidArgument.
[[nodiscard]] double quantile(std::vector<double> values, double q);

}  // namespace weft::scheduler
