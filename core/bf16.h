// core/bf16.h - BF16: the upper half of an F32, for storage. Sums and everything else is done in F32.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace weft {

/// Eight bits of exponent, as F32, and eight of significand. Reading it gives an F32; writing an F32 rounds to nearest,
/// ties to even. constexpr, so that GPU code may use it (nvcc's relaxed constexpr).
class BF16 {
 public:
  BF16() = default;
  constexpr BF16(float value) : bits_(rounded(std::bit_cast<std::uint32_t>(value))) {}
  constexpr operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits_) << kDropped); }
  [[nodiscard]] static constexpr BF16 from_bits(std::uint16_t bits) {
    BF16 value;
    value.bits_ = bits;
    return value;
  }
  [[nodiscard]] constexpr std::uint16_t bits() const { return bits_; }

 private:
  static constexpr unsigned kDropped = 16;
  static constexpr std::uint16_t rounded(std::uint32_t bits) {
    constexpr std::uint32_t kInfinity = 0x7f800000U, kSign = 0x80000000U, kQuiet = 0x40U, kHalf = 0x7fffU;
    if ((bits & ~kSign) > kInfinity) return static_cast<std::uint16_t>(bits >> kDropped | kQuiet);  // NaN stays NaN
    return static_cast<std::uint16_t>((bits + kHalf + ((bits >> kDropped) & 1U)) >> kDropped);
  }
  std::uint16_t bits_;
};
static_assert(sizeof(BF16) == 2 && std::is_trivially_copyable_v<BF16>);

/// The type that sums over T, statistics of rows, gradients and master weights are kept in.
template <class T>
using Wide = std::conditional_t<std::is_same_v<std::remove_const_t<T>, BF16>, float, std::remove_const_t<T>>;

}  // namespace weft

template <>
class std::numeric_limits<weft::BF16> {
 public:
  static constexpr bool is_specialized = true, has_infinity = true, has_quiet_NaN = true;
  static constexpr weft::BF16 epsilon() { return weft::BF16(0x1p-7F); }  ///< From 1 to the next number.
  static constexpr weft::BF16 infinity() { return weft::BF16::from_bits(0x7f80); }
  static constexpr weft::BF16 quiet_NaN() { return weft::BF16::from_bits(0x7fc0); }
  static constexpr weft::BF16 max() { return weft::BF16::from_bits(0x7f7f); }
};
