// tests/support/close.h - are two arrays equal up to rounding? The tolerance follows from the type and from how many
// terms each element sums, never from a bare number. Source: sums of n rounded terms err by about sqrt(n) eps, n eps at
// worst: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., sections 2.8 and 4.2.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "core/bf16.h"
#include "core/error.h"
#include "tests/support/generators.h"
#include "tests/support/reference.h"

namespace weft::test {

/// Relative error to expect of a sum of `sum_length` terms in T: 8 sqrt(n) eps, where 8 covers the ~10 further
/// roundings (exp, division, ...) around the sum.
template <class T>
[[nodiscard]] double tolerance(std::int64_t sum_length) {
  return 8.0 * std::sqrt(static_cast<double>(std::max<std::int64_t>(sum_length, 1))) *
         static_cast<double>(std::numeric_limits<T>::epsilon());
}

/// BF16 is storage alone: sums are F32's, and what counts are the roundings of inputs between kernels and of the
/// result.
template <>
[[nodiscard]] inline double tolerance<BF16>(std::int64_t sum_length) {
  constexpr double kRoundings = 4.0, kHalfUlp = 0x1p-8;
  return kRoundings * kHalfUlp + tolerance<float>(sum_length);
}

/// "" when every element is within tolerance<T>(sum_length) of the expected one, relative to the largest expected
/// magnitude (cancellation in one element is no error) or to `term`, the magnitude of the terms that are summed, where
/// all sums may cancel; else where and by how much. NaN equals NaN, and infinity only itself.
template <class T>
[[nodiscard]] std::string difference(std::span<const T> actual, std::span<const double> expected,
                                     std::int64_t sum_length, double term = 0.0) {
  if (actual.size() != expected.size()) return str("sizes differ: ", actual.size(), " and ", expected.size());
  double largest = term;
  for (const double e : expected)
    if (std::isfinite(e)) largest = std::max(largest, std::fabs(e));
  const double bound = tolerance<T>(sum_length) * largest;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const auto a = static_cast<double>(actual[i]);
    const double e = expected[i];
    const bool same = std::isnan(e) ? std::isnan(a) : std::isinf(e) ? a == e : std::fabs(a - e) <= bound;
    if (!same) return str("element ", i, " is ", a, ", expected ", e, ", off by ", std::fabs(a - e), " > ", bound);
  }
  return {};
}

template <class T>
[[nodiscard]] std::string difference(const std::vector<T>& actual, const reference::Reals& expected,
                                     std::int64_t sum_length, double term = 0.0) {
  return difference<T>(std::span<const T>(actual), std::span<const double>(expected), sum_length, term);
}

/// Also checks that nothing was written outside the matrix.
template <class T>
[[nodiscard]] std::string difference(const Grid<T>& actual, const reference::Dense& expected, std::int64_t sum_length,
                                     double term = 0.0) {
  if (actual.rows() != expected.rows || actual.cols() != expected.cols)
    return str("shape is [", actual.rows(), ", ", actual.cols(), "], expected [", expected.rows, ", ", expected.cols,
               "]");
  if (!actual.guards_intact()) return "something was written outside the matrix";
  std::vector<T> packed;
  for (std::int64_t i = 0; i < actual.rows(); ++i)
    for (std::int64_t j = 0; j < actual.cols(); ++j) packed.push_back(actual(i, j));
  return difference<T>(std::span<const T>(packed), std::span<const double>(expected.data), sum_length, term);
}

}  // namespace weft::test
