// core/philox.h - the bits behind core/rng.h, as constexpr functions that GPU code may call, too.
// Source: Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11.
#pragma once

#include <cstdint>

namespace weft {

struct PhiloxKey {
  std::uint32_t low = 0, high = 0;
};
struct PhiloxBits {
  std::uint32_t word[4];
};

[[nodiscard]] constexpr PhiloxBits philox(PhiloxKey key, std::uint64_t counter, std::uint64_t sub_counter) noexcept {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(sub_counter), c3 = static_cast<std::uint32_t>(sub_counter >> 32);
  std::uint32_t k0 = key.low, k1 = key.high;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ULL * c0, p1 = 0xCD9E8D57ULL * c2;
    const std::uint32_t h0 = static_cast<std::uint32_t>(p0 >> 32), l0 = static_cast<std::uint32_t>(p0);
    const std::uint32_t h1 = static_cast<std::uint32_t>(p1 >> 32), l1 = static_cast<std::uint32_t>(p1);
    c0 = h1 ^ c1 ^ k0;
    c1 = l1;
    c2 = h0 ^ c3 ^ k1;
    c3 = l0;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  return {{c0, c1, c2, c3}};
}

/// 64 bits as a number in (0, 1).
[[nodiscard]] constexpr double unit_interval(std::uint32_t high, std::uint32_t low) noexcept {
  const std::uint64_t bits53 = ((static_cast<std::uint64_t>(high) << 32) | low) >> 11;
  return (static_cast<double>(bits53) + 0.5) * 0x1p-53;  // the half keeps 0 and 1 out
}

}  // namespace weft
