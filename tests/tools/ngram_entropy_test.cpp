#include "tools/data/ngram_entropy.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "core/error.h"
#include "core/rng.h"
#include "tests/support/catch.h"

namespace weft::tools {
namespace {

using Tokens = std::vector<std::int32_t>;

constexpr std::int32_t kSeparator = 256;

// The definition, with maps.
double plain_entropy(const Tokens& tokens, int n, std::int32_t separator) {
  std::map<Tokens, double> ngrams, contexts;
  double total = 0;
  for (std::size_t i = 0; i + static_cast<std::size_t>(n) <= tokens.size(); ++i) {
    const Tokens ngram(tokens.begin() + static_cast<long>(i), tokens.begin() + static_cast<long>(i) + n);
    if (std::find(ngram.begin(), ngram.end(), separator) != ngram.end()) continue;
    ++ngrams[ngram];
    ++contexts[Tokens(ngram.begin(), ngram.end() - 1)];
    ++total;
  }
  double entropy = 0;
  for (const auto& [ngram, count] : ngrams)
    entropy -= count / total * std::log(count / contexts[Tokens(ngram.begin(), ngram.end() - 1)]);
  return entropy;
}

TEST_CASE("the entropy of n-grams agrees with its definition") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const Rng rng(seed, RngPurpose::kTest);
    const int n = 1 + static_cast<int>(seed % 5);
    const auto vocab = static_cast<std::uint64_t>(seed % 3 == 0 ? 2 : seed % 3 == 1 ? 257 : 4096);
    Tokens tokens(rng.below(400, 0));
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<std::int32_t>(std::min(rng.below(vocab, 2 * i + 1), rng.below(vocab, 2 * i + 2)));
    INFO("seed " << seed << ", n " << n << ", " << tokens.size() << " tokens");
    CHECK(conditional_entropy(tokens, n, kSeparator) == Approx(plain_entropy(tokens, n, kSeparator)).margin(1e-12));
  }
}

TEST_CASE("the entropy of known texts is known") {
  CHECK(conditional_entropy(Tokens{0, 1, 2, 3}, 1, kSeparator) == Approx(std::log(4.0)));
  CHECK(conditional_entropy(Tokens{0, 1, 0, 1, 0, 1}, 2, kSeparator) == Approx(0.0).margin(1e-15));
  CHECK(conditional_entropy(Tokens{0, 0, 0, 1, 0, 0, 0, 1}, 2, 7) ==
        Approx(0.0 + (6.0 * std::log(6) - 4 * std::log(4) - 2 * std::log(2)) / 7));
}

TEST_CASE("n-grams across documents do not count") {
  CHECK(conditional_entropy(Tokens{5, kSeparator, 6, kSeparator, 7}, 2, kSeparator) == 0.0);
  CHECK(conditional_entropy(Tokens{}, 3, kSeparator) == 0.0);
  CHECK(conditional_entropy(Tokens{kSeparator}, 1, kSeparator) == 0.0);
}

TEST_CASE("n-gram entropy refuses what it cannot count") {
  CHECK_THROWS_AS(conditional_entropy(Tokens{1}, 0, kSeparator), Error);
  CHECK_THROWS_AS(conditional_entropy(Tokens{1}, 9, kSeparator), Error);
  CHECK_THROWS_AS(conditional_entropy(Tokens{-1}, 1, kSeparator), Error);
  CHECK_THROWS_AS(conditional_entropy(Tokens{50256}, 5, kSeparator), Error);
  CHECK_NOTHROW(conditional_entropy(Tokens{50256, 1, 2, 3}, 4, kSeparator));  // 4 * 16 bits
}

}  // namespace
}  // namespace weft::tools
