#include "tools/data/ngram_entropy.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "core/error.h"

namespace weft::tools {
namespace {

// Each n-gram as one number, first token in the highest bits, so that sorting puts equal contexts side by side.
std::vector<std::uint64_t> packed_ngrams(std::span<const std::int32_t> tokens, int n, std::int32_t separator,
                                         int bits) {
  const int kept_bits = n * bits;
  const std::uint64_t mask = kept_bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << kept_bits) - 1;
  std::vector<std::uint64_t> ngrams;
  ngrams.reserve(tokens.size());
  std::uint64_t window = 0;
  int length = 0;  // tokens since the last separator, at most n
  for (const std::int32_t token : tokens) {
    if (token == separator) {
      length = 0;
      continue;
    }
    window = ((window << bits) | static_cast<std::uint64_t>(token)) & mask;
    length = std::min(length + 1, n);
    if (length == n) ngrams.push_back(window);
  }
  return ngrams;
}

// sum over runs of equal keys (after >> shift) of count * ln(count)
double sum_count_log_count(const std::vector<std::uint64_t>& sorted, int shift) {
  const auto key = [shift](std::uint64_t ngram) { return shift == 64 ? 0 : ngram >> shift; };
  double sum = 0.0;
  for (std::size_t begin = 0, end = 0; begin < sorted.size(); begin = end) {
    while (end < sorted.size() && key(sorted[end]) == key(sorted[begin])) ++end;
    const auto count = static_cast<double>(end - begin);
    sum += count * std::log(count);
  }
  return sum;
}

}  // namespace

double conditional_entropy(std::span<const std::int32_t> tokens, int n, std::int32_t separator) {
  WEFT_CHECK(n >= 1 && n <= 8, "n-gram entropy: n is ", n, ", not in [1, 8]");
  std::int32_t largest = 1;
  for (const std::int32_t token : tokens) {
    if (token == separator) continue;
    WEFT_CHECK(token >= 0, "n-gram entropy: token ", token, " is negative");
    largest = std::max(largest, token);
  }
  const int bits = std::bit_width(static_cast<std::uint32_t>(largest));
  WEFT_CHECK(n * bits <= 64, "n-gram entropy: ", n, " tokens of up to ", largest,
             " do not fit 64 bits; use a smaller n");
  std::vector<std::uint64_t> ngrams = packed_ngrams(tokens, n, separator, bits);
  if (ngrams.empty()) return 0.0;
  std::sort(ngrams.begin(), ngrams.end());
  // With N n-grams: H = 1/N * (sum over contexts of count ln count - sum over n-grams of count ln count).
  const int context_shift = n == 1 ? 64 : bits;
  return (sum_count_log_count(ngrams, context_shift) - sum_count_log_count(ngrams, 0)) /
         static_cast<double>(ngrams.size());
}

}  // namespace weft::tools
