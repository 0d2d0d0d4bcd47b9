// tests/support/draw.h - random numbers in turn from one seed, for cases that are drawn.
#pragma once

#include <cstdint>

#include "core/rng.h"

namespace weft::test {

class Draw {
 public:
  /// `stream`: the same seed gives other numbers in other tests.
  Draw(std::uint64_t seed, std::uint64_t stream) : rng_(seed, RngPurpose::kTest, stream) {}
  double real(double low, double high) { return low + (high - low) * rng_.uniform(counter_++); }
  int below(int n) { return static_cast<int>(rng_.below(static_cast<std::uint64_t>(n), counter_++)); }

 private:
  Rng rng_;
  std::uint64_t counter_ = 0;
};

}  // namespace weft::test
