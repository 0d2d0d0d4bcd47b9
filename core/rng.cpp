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

}  // namespace

Rng::Rng(std::uint64_t seed, RngPurpose purpose, std::uint64_t step, std::uint64_t layer) noexcept {
  const std::uint64_t key = combine(combine(combine(seed, static_cast<std::uint64_t>(purpose)), step), layer);
  key_ = {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
}

std::array<std::uint32_t, 4> Rng::bits(std::uint64_t counter, std::uint64_t sub_counter) const noexcept {
  const PhiloxBits b = philox(key_, counter, sub_counter);
  return {b.word[0], b.word[1], b.word[2], b.word[3]};
}

double Rng::uniform(std::uint64_t counter, std::uint64_t sub_counter) const noexcept {
  const auto b = bits(counter, sub_counter);
  return unit_interval(b[0], b[1]);
}

double Rng::normal(std::uint64_t counter, std::uint64_t sub_counter) const noexcept {  // Box-Muller
  const auto b = bits(counter, sub_counter);
  return std::sqrt(-2.0 * std::log(unit_interval(b[0], b[1]))) *
         std::cos(2.0 * std::numbers::pi * unit_interval(b[2], b[3]));
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
