// core/rng.h - counter-based random numbers: a pure function of (key, counter), so there is no stream to lose.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/philox.h"

namespace weft {

/// What the numbers are for: part of the key, so that two uses of one seed never share a number.
enum class RngPurpose : std::uint32_t { kInit = 1, kShuffle, kGateNoise, kSample, kTest, kSearch, kResample };

/// One generator. The key is (seed, purpose, step, layer); the counter, the caller's global id of the number
/// (token, parameter element, ...): never a rank and never "the next one".
class Rng {
 public:
  explicit Rng(PhiloxKey key) noexcept : key_(key) {}
  Rng(std::uint64_t seed, RngPurpose purpose, std::uint64_t step = 0, std::uint64_t layer = 0) noexcept;

  [[nodiscard]] std::array<std::uint32_t, 4> bits(std::uint64_t counter, std::uint64_t sub_counter = 0) const noexcept;
  [[nodiscard]] double uniform(std::uint64_t counter, std::uint64_t sub_counter = 0) const noexcept;  ///< In (0, 1).
  [[nodiscard]] double normal(std::uint64_t counter, std::uint64_t sub_counter = 0) const noexcept;   ///< N(0, 1).
  [[nodiscard]] std::uint64_t below(std::uint64_t bound, std::uint64_t counter) const noexcept;  ///< In [0, bound).
  [[nodiscard]] PhiloxKey key() const noexcept { return key_; }

 private:
  PhiloxKey key_;
};

/// A stable 64-bit hash of a name, for counters and keys: FNV-1a, then a mix.
[[nodiscard]] std::uint64_t hash_name(std::string_view name) noexcept;

}  // namespace weft
