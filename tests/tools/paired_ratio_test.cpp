// tests/tools/paired_ratio_test.cpp - intervals of a ratio of interleaved measurements.
#include "tools/bench/paired_ratio.h"

#include <cmath>

#include "core/rng.h"
#include "tests/support/catch.h"

namespace weft::tools {
namespace {

TEST_CASE("A ratio that every round agrees on has no width", "[bench]") {
  const PairedRatio ratio = paired_ratio({20, 22, 30, 24}, {10, 11, 15, 12});  // the machine drifts, the ratio does not
  CHECK(ratio.ratio == 2.0);
  CHECK(ratio.low == 2.0);
  CHECK(ratio.high == 2.0);
}

TEST_CASE("The interval covers the true ratio about as often as it says", "[bench]") {
  int covered = 0, num = 0;
  double width_few = 0.0, width_many = 0.0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Rng rng(seed, RngPurpose::kTest);
    const auto draw = [&](int rounds) {
      std::vector<double> slow, fast;
      for (int i = 0; i < rounds; ++i) {
        const auto at = static_cast<std::uint64_t>(2 * i);
        slow.push_back(150.0 * (1.0 + 0.05 * rng.normal(at)));
        fast.push_back(100.0 * (1.0 + 0.05 * rng.normal(at + 1)));
      }
      return paired_ratio(slow, fast);
    };
    const PairedRatio few = draw(11), many = draw(81);
    CHECK(few.low <= few.ratio);
    CHECK(few.ratio <= few.high);
    covered += few.low <= 1.5 && 1.5 <= few.high ? 1 : 0;
    ++num;
    width_few += few.high - few.low;
    width_many += many.high - many.low;
  }
  INFO(covered << " of " << num);
  CHECK(covered >= 51);  // 57 expected; 51 or fewer of 60 at 95 % happens once in fifty
  CHECK(width_many < 0.6 * width_few);
}

}  // namespace
}  // namespace weft::tools
