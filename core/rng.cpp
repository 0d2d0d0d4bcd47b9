#include "core/rng.h"

#include <cmath>
#include <numbers>

namespace weft {
namespace {

std::uint64_t mix(std::uint64_t x) noexcept {  // splitmix64's finaliser
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

std::uint64_t combine(std::uint64_t a, std::uint64_t b) noexcept { return mix(a + 0x9e3779b97f4a7c15ULL + mix(b)); }

double to_unit(std::uint32_t high, std::uint32_t low) noexcept {
  const std::uint64_t bits53 = ((static_cast<std::uint64_t>(high) << 32) | low) >> 11;
  return (static_cast<double>(bits53) + 0.5) * 0x1p-53;  // the half keeps 0 and 1 out
}

}  // namespace

Rng::Rng(std::uint64_t seed, RngPurpose purpose, std::uint64_t step, std::uint64_t layer) noexcept {
  const std::uint64_t key = combine(combine(combine(seed, static_cast<std::uint64_t>(purpose)), step), layer);
  key0_ = static_cast<std::uint32_t>(key);
  key1_ = static_cast<std::uint32_t>(key >> 32);
}

std::array<std::uint32_t, 4> Rng::bits(std::uint64_t counter, std::uint64_t sub_counter) const noexcept {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(sub_counter), c3 = static_cast<std::uint32_t>(sub_counter >> 32);
  std::uint32_t k0 = key0_, k1 = key1_;
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
  return {c0, c1, c2, c3};
}

double Rng::uniform(std::uint64_t counter, std::uint64_t sub_counter) const noexcept {
  const auto b = bits(counter, sub_counter);
  return to_unit(b[0], b[1]);
}

double Rng::normal(std::uint64_t counter, std::uint64_t sub_counter) const noexcept {  // Box-Muller
  const auto b = bits(counter, sub_counter);
  return std::sqrt(-2.0 * std::log(to_unit(b[0], b[1]))) * std::cos(2.0 * std::numbers::pi * to_unit(b[2], b[3]));
}

std::uint64_t Rng::below(std::uint64_t bound, std::uint64_t counter) const noexcept {
  const auto b = bits(counter);
  const std::uint64_t x = (static_cast<std::uint64_t>(b[0]) << 32) | b[1];
  return static_cast<std::uint64_t>((static_cast<unsigned __int128>(x) * bound) >> 64);  // bias below bound / 2^64
}

std::uint64_t hash_name(std::string_view name) noexcept {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return mix(h);
}

}  // namespace weft
