// tools/data/ngram_entropy.h - how well the n - 1 tokens before it foretell a token: the bar a language model must
// beat. Source: C. Shannon, "Prediction and entropy of printed English", 1951, eq. 1.
#pragma once

#include <cstdint>
#include <span>

namespace weft::tools {

/// H(c_n | c_1 .. c_{n-1}) = - sum p(c_1..c_n) ln p(c_n | c_1..c_{n-1}) in nats, p being shares of the n-grams in
/// `tokens`. An n-gram with `separator` in it (the border of documents) does not count. 0 when there is none. n in [1,
/// 8]; memory: 8 bytes a token. Throws Error{kInvalidArgument} when n tokens of the largest id do not fit 64 bits.
[[nodiscard]] double conditional_entropy(std::span<const std::int32_t> tokens, int n, std::int32_t separator);

}  // namespace weft::tools
