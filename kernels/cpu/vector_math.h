// kernels/cpu/vector_math.h - exp, tanh, the logistic function and sine/cosine without branches, for loops that the
// compiler vectorises (it leaves std::exp scalar unless told to ignore NaN and infinity, which Weft must not). Source:
// argument reduction in two or three parts, Cody and Waite, "Software Manual for the Elementary Functions", chapters 6
// and 8; the polynomials are Taylor sums, cut where the next term is below a quarter of an ulp.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace weft::kernels::cpu {

/// Constants of one format. `magic` = 1.5 * 2^mantissa_bits: x + magic rounds x to an integer in the sum's low bits.
template <class T>
struct Float;

template <>
struct Float<float> {
  using Bits = std::uint32_t;
  using Int = std::int32_t;
  static constexpr int kMantissaBits = 23;
  static constexpr Bits kBias = 127;
  static constexpr float kMagic = 0x1.8p23F;
  static constexpr float kLn2Hi = 0x1.62e4p-1F, kLn2Lo = 0x1.7f7d1cf79abc9p-20F;  // kLn2Hi * n is exact
  static constexpr float kExpMin = -104.0F, kExpMax = 89.0F;                      // past these: 0 and infinity
  static constexpr int kExpTerms = 7;
};

template <>
struct Float<double> {
  using Bits = std::uint64_t;
  using Int = std::int64_t;
  static constexpr int kMantissaBits = 52;
  static constexpr Bits kBias = 1023;
  static constexpr double kMagic = 0x1.8p52;
  static constexpr double kLn2Hi = 0x1.62e42fefap-1, kLn2Lo = 0x1.cf79abc9e3b398p-40;
  static constexpr double kExpMin = -746.0, kExpMax = 710.0;
  static constexpr int kExpTerms = 13;
};

/// 1 / k!, k = 0 ... 13.
template <class T>
inline constexpr std::array<T, 14> kInverseFactorial = [] {
  std::array<T, 14> c{};
  double factorial = 1.0;
  for (std::size_t k = 0; k < c.size(); ++k) {
    if (k > 0) factorial *= static_cast<double>(k);
    c[k] = static_cast<T>(1.0 / factorial);
  }
  return c;
}();

/// r + r^2/2! + ... : e^r - 1 for |r| <= ln(2) / 2.
template <class T, int kTerm = Float<T>::kExpTerms - 1>
[[gnu::always_inline]] inline T expm1_small(T r, T sum = kInverseFactorial<T>[Float<T>::kExpTerms]) {
  if constexpr (kTerm == 0)
    return sum * r;
  else
    return expm1_small<T, kTerm - 1>(r, sum * r + kInverseFactorial<T>[kTerm]);
}

/// x = n ln 2 + r, with n as a biased exponent: bits = n + bias (modulo 2^width).
template <class T>
struct Reduced {
  T r;
  typename Float<T>::Bits exponent;
};
template <class T>
[[gnu::always_inline]] inline Reduced<T> reduce_by_ln2(T x) {
  using F = Float<T>;
  const T shifted = x * T(1.4426950408889634074) + F::kMagic;
  const T n = shifted - F::kMagic;
  const auto bits = std::bit_cast<typename F::Bits>(shifted) - std::bit_cast<typename F::Bits>(F::kMagic);
  return {(x - n * F::kLn2Hi) - n * F::kLn2Lo, bits + F::kBias};
}

/// e^x within 2 ulp, over the whole range: 0 for -infinity, infinity past the largest number, subnormals, NaN for NaN.
template <class T>
[[gnu::always_inline]] inline T exp(T x) {
  using F = Float<T>;
  x = x < F::kExpMin ? F::kExpMin : x;
  x = x > F::kExpMax ? F::kExpMax : x;
  const auto [r, exponent] = reduce_by_ln2(x);
  const auto twice = exponent + F::kBias;  // 2^n in two factors, so that neither leaves the normal range
  const auto half = twice >> 1;
  const T scale1 = std::bit_cast<T>(half << F::kMantissaBits);
  const T scale2 = std::bit_cast<T>((twice - half) << F::kMantissaBits);
  return (expm1_small(r) + T(1)) * scale1 * scale2;
}

/// 1 / (1 + e^-x). NaN for NaN.
template <class T>
[[gnu::always_inline]] inline T sigmoid(T x) {
  return T(1) / (T(1) + exp(-x));
}

/// tanh(x) within 4 ulp: -(e^y - 1) / (e^y + 1) at y = -2|x|, with e^y - 1 free of cancellation. NaN for NaN.
template <class T>
[[gnu::always_inline]] inline T tanh(T x) {
  using F = Float<T>;
  T y = T(-2) * std::fabs(x);
  y = y < T(-44) ? T(-44) : y;  // there tanh is 1
  const auto [r, exponent] = reduce_by_ln2(y);
  const T scale = std::bit_cast<T>(exponent << F::kMantissaBits);
  const T em1 = scale * expm1_small(r) + (scale - T(1));
  return std::copysign(em1 / (T(2) + em1), x);
}

/// sin(x) and cos(x), absolute error below 3e-16 for |x| < 1e6; past that it grows with |x| * 2^-53 at most.
struct SinCos {
  double sin, cos;
};
[[gnu::always_inline]] inline SinCos sin_cos(double x) {
  const double shifted = x * 0.63661977236758134308 + 0x1.8p52;  // 2 / pi
  const double n = shifted - 0x1.8p52;
  const auto quadrant = std::bit_cast<std::uint64_t>(shifted);
  // pi / 2 in three parts; the first two have 33 bits, so that their products with n < 2^20 are exact
  const double r = ((x - n * 0x1.921fb544p+0) - n * 0x1.0b4611a6p-34) - n * 0x1.3198a2e037073p-69;
  const double r2 = r * r;
  double s = 0.0, c = 0.0;
  // Taylor sums to r^17 / 17! and r^16 / 16!, on |r| <= pi / 4
  s = s * r2 + 1.0 / 355687428096000.0;
  s = s * r2 - 1.0 / 1307674368000.0;
  s = s * r2 + 1.0 / 6227020800.0;
  s = s * r2 - 1.0 / 39916800.0;
  s = s * r2 + 1.0 / 362880.0;
  s = s * r2 - 1.0 / 5040.0;
  s = s * r2 + 1.0 / 120.0;
  s = s * r2 - 1.0 / 6.0;
  s = s * r2 * r + r;
  c = c * r2 + 1.0 / 20922789888000.0;
  c = c * r2 - 1.0 / 87178291200.0;
  c = c * r2 + 1.0 / 479001600.0;
  c = c * r2 - 1.0 / 3628800.0;
  c = c * r2 + 1.0 / 40320.0;
  c = c * r2 - 1.0 / 720.0;
  c = c * r2 + 1.0 / 24.0;
  c = c * r2 - 0.5;
  c = c * r2 + 1.0;
  const bool swapped = (quadrant & 1U) != 0;
  const double sine = swapped ? c : s, cosine = swapped ? s : c;
  return {std::bit_cast<double>(std::bit_cast<std::uint64_t>(sine) ^ ((quadrant & 2U) << 62)),
          std::bit_cast<double>(std::bit_cast<std::uint64_t>(cosine) ^ (((quadrant + 1U) & 2U) << 62))};
}

}  // namespace weft::kernels::cpu
