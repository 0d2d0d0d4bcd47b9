// tests/support/gradcheck.h - a gradient against central differences, in f64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "core/error.h"

namespace weft::test {

/// Moves each element of `x` by +-h, h = 1e-5, and compares (loss(x+h) - loss(x-h)) / 2h with `gradient`. "" when they
/// agree to 1e-8 of the largest entry (truncation costs h^2 / 6 = 2e-11 third derivatives) plus 1e-10 of the loss
/// (rounding costs eps / h = 2e-11 of it); else where and by how much. `loss` reads x in place; x is as before
/// afterwards.
[[nodiscard]] inline std::string gradient_difference(std::span<double> x, std::span<const double> gradient,
                                                     const std::function<double()>& loss) {
  constexpr double kStep = 1e-5, kRelative = 1e-8, kRounding = 1e-10;
  if (x.size() != gradient.size()) return str("sizes differ: ", x.size(), " and ", gradient.size());
  double largest = 0.0;
  for (const double g : gradient) largest = std::max(largest, std::fabs(g));
  const double bound = kRelative * largest + kRounding * std::max(1.0, std::fabs(loss()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double before = x[i];
    x[i] = before + kStep;
    const double up = loss();
    x[i] = before - kStep;
    const double down = loss();
    x[i] = before;
    const double numeric = (up - down) / (2.0 * kStep);
    if (!(std::fabs(numeric - gradient[i]) <= bound))
      return str("element ", i, ": gradient ", gradient[i], ", central difference ", numeric, ", off by more than ",
                 bound);
  }
  return {};
}

/// <a, b>: the loss whose gradient with respect to a is b.
[[nodiscard]] inline double dot(std::span<const double> a, std::span<const double> b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace weft::test
