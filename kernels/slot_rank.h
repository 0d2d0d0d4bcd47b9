// kernels/slot_rank.h - how expert choice compares scores: on every backend the same.
#pragma once

#include <bit>
#include <cstdint>

namespace weft::kernels {

/// The score as a whole number that orders like it, without the last bits of its mantissa. A NaN sorts below all.
[[nodiscard]] constexpr std::uint64_t slot_rank(double score) {
  if (!(score > 0.0)) return 0;
  return (std::bit_cast<std::uint64_t>(score) + (1U << 11)) >> 12;
}
[[nodiscard]] constexpr std::uint64_t slot_rank(float score) {
  if (!(score > 0.0F)) return 0;
  return (std::bit_cast<std::uint32_t>(score) + (1U << 7)) >> 8;
}

}  // namespace weft::kernels
