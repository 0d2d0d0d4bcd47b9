#include "parallel/data/sample_order.h"

#include <bit>

#include "core/error.h"
#include "core/rng.h"

namespace weft::parallel {
namespace {

constexpr std::uint64_t kRounds = 8;  // more than the 4 of a strong pseudo-random permutation: domains can be tiny

/// One application: a bijection of [0, 2^(2 * half_bits)).
std::uint64_t feistel(const Rng& rng, std::uint64_t x, int half_bits) {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  std::uint64_t left = x >> half_bits, right = x & mask;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const std::uint64_t mixed = left ^ (rng.bits(right, round)[0] & mask);
    left = right;
    right = mixed;
  }
  return (left << half_bits) | right;
}

}  // namespace

SampleOrder::SampleOrder(std::uint64_t seed, std::int64_t num_samples)
    : seed_(seed),
      num_samples_(num_samples),
      half_bits_((std::bit_width(static_cast<std::uint64_t>(num_samples - 1)) + 1) / 2) {
  WEFT_CHECK(num_samples >= 1, "an order of ", num_samples, " samples");
}

std::int64_t SampleOrder::operator()(std::int64_t index) const {
  WEFT_CHECK(index >= 0, "place ", index, " of the sample order");
  const Rng rng(seed_, RngPurpose::kShuffle, static_cast<std::uint64_t>(index / num_samples_));
  auto x = static_cast<std::uint64_t>(index % num_samples_);
  // Cycle walking: leave [0, N) only to come back. The domain is below 4 N (but for N = 1, 2), so few rounds on
  // average.
  do x = feistel(rng, x, half_bits_);
  while (x >= static_cast<std::uint64_t>(num_samples_));
  return static_cast<std::int64_t>(x);
}

}  // namespace weft::parallel
