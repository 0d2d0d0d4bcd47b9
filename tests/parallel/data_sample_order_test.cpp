#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "parallel/data/sample_order.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"

namespace weft::test {
namespace {

using parallel::SampleOrder;

std::vector<std::int64_t> epoch(std::uint64_t seed, std::int64_t n, std::int64_t number) {
  const SampleOrder order(seed, n);
  std::vector<std::int64_t> samples;
  for (std::int64_t i = 0; i < n; ++i) samples.push_back(order(number * n + i));
  return samples;
}

TEST_CASE("each epoch has every sample once", "[data]") {
  for (const std::int64_t n : {1, 2, 3, 4, 5, 7, 15, 16, 17, 64, 97, 255, 256, 257, 1009, 4096, 10007}) {
    for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, ~std::uint64_t{0}}) {
      for (const std::int64_t number : {0, 1, 1000000}) {
        INFO("n " << n << ", seed " << seed << ", epoch " << number);
        auto samples = epoch(seed, n, number);
        std::ranges::sort(samples);
        bool is_permutation = true;
        for (std::int64_t i = 0; i < n; ++i) is_permutation &= samples[static_cast<std::size_t>(i)] == i;
        CHECK(is_permutation);
      }
    }
  }
}

TEST_CASE("epochs and seeds differ, calls do not", "[data]") {
  for (const std::int64_t n : {100, 1009, 4096}) {
    const auto first = epoch(7, n, 0);
    CHECK(first == epoch(7, n, 0));
    CHECK(first != epoch(7, n, 1));
    CHECK(first != epoch(8, n, 0));
    auto sorted = first;
    std::ranges::sort(sorted);
    CHECK(first != sorted);
  }
}

TEST_CASE("the order is part of the contract with old checkpoints", "[data]") {
  CHECK(epoch(42, 10, 0) == std::vector<std::int64_t>{0, 5, 4, 7, 6, 3, 8, 1, 2, 9});
  CHECK(epoch(42, 10, 1) == std::vector<std::int64_t>{7, 0, 2, 4, 5, 8, 6, 3, 9, 1});
}

/// Over many epochs each sample comes at each place about equally often: chi-square with (n - 1)^2 degrees of freedom.
TEST_CASE("samples are spread evenly over places", "[data]") {
  for (const int n : {2, 5, 6, 11}) {
    constexpr int kEpochs = 4000;
    std::vector<int> hits(static_cast<std::size_t>(n * n));
    for (int e = 0; e < kEpochs; ++e) {
      const auto samples = epoch(3, n, e);
      for (int place = 0; place < n; ++place)
        ++hits[static_cast<std::size_t>(place * n + samples[static_cast<std::size_t>(place)])];
    }
    const double expected = static_cast<double>(kEpochs) / n;
    double chi_square = 0.0;
    for (const int h : hits) chi_square += (h - expected) * (h - expected) / expected;
    const double freedom = (n - 1) * (n - 1);
    INFO("n " << n << ", chi-square " << chi_square << " of " << freedom);
    CHECK(chi_square < freedom + 5.0 * std::sqrt(2.0 * freedom));
  }
}

TEST_CASE("huge data sets stay in range", "[data]") {
  for (const std::int64_t n : {(std::int64_t{1} << 40) + 1, INT64_MAX}) {
    const SampleOrder order(1, n);
    std::set<std::int64_t> seen;
    for (std::int64_t i = 0; i < 1000; ++i) {
      const std::int64_t sample = order(i);
      CHECK((sample >= 0 && sample < n));
      seen.insert(sample);
    }
    CHECK(seen.size() == 1000);
  }
}

TEST_CASE("an order refuses nonsense", "[data]") {
  check_error(ErrorCode::kInvalidArgument, "0 samples", [] { SampleOrder(1, 0); });
  check_error(ErrorCode::kInvalidArgument, "place -1", [] { (void)SampleOrder(1, 5)(-1); });
}

}  // namespace
}  // namespace weft::test
