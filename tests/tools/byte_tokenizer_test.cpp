#include "tools/data/byte_tokenizer.h"

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/rng.h"
#include "tests/support/catch.h"

namespace weft::tools {
namespace {

using Tokens = std::vector<std::uint16_t>;

// Lines of random lengths of random bytes.
std::string random_text(std::uint64_t seed, std::size_t size) {
  const Rng rng(seed, RngPurpose::kTest);
  std::string text(size, ' ');
  for (std::size_t i = 0; i < size; ++i)
    text[i] = rng.below(50, 2 * i) == 0 ? '\n' : static_cast<char>(rng.below(256, 2 * i + 1));
  return text;
}

std::size_t count_bytes(const Tokens& tokens) {
  return tokens.size() - static_cast<std::size_t>(std::count(tokens.begin(), tokens.end(), kEndOfText));
}

TEST_CASE("without held-out text, a document is its mark and its bytes") {
  ByteTokenizer tokenizer(0.0, 5);
  tokenizer.add("a\xff");
  tokenizer.add("");
  tokenizer.add(std::string("\0b", 2));
  CHECK(tokenizer.train() == Tokens{kEndOfText, 'a', 255, kEndOfText, kEndOfText, 0, 'b'});
  CHECK(tokenizer.val().empty());
}

TEST_CASE("every byte goes to one part, in order, and the held-out share is kept") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const double fraction = static_cast<double>(seed % 6) * 0.1;
    const std::string text = random_text(seed, 200000 + 1009 * seed);
    ByteTokenizer tokenizer(fraction, text.size());
    tokenizer.add(text);
    INFO("seed " << seed << ", fraction " << fraction);
    const double held_out = static_cast<double>(count_bytes(tokenizer.val())) / static_cast<double>(text.size());
    CHECK(held_out == Approx(fraction).margin(0.03));
    CHECK(count_bytes(tokenizer.val()) + count_bytes(tokenizer.train()) == text.size());
    // put the pieces together again: a mark of its own begins each piece, and pieces alternate
    std::size_t at = 0, t = 0, v = 0;
    const auto take = [&](const Tokens& from, std::size_t& i) {
      for (++i; i < from.size() && from[i] != kEndOfText; ++i, ++at)
        if (at >= text.size() || from[i] != static_cast<unsigned char>(text[at])) return false;
      return true;
    };
    while (t < tokenizer.train().size() || v < tokenizer.val().size()) {
      const std::size_t t0 = t, at0 = at;
      if (t < tokenizer.train().size() && take(tokenizer.train(), t)) {
        if (v < tokenizer.val().size() && !take(tokenizer.val(), v)) FAIL("held-out piece out of order");
        continue;
      }
      t = t0, at = at0;
      REQUIRE(v < tokenizer.val().size());
      REQUIRE(take(tokenizer.val(), v));
    }
    CHECK(at == text.size());
  }
}

TEST_CASE("blocks end at line ends when lines are short") {
  std::string text;
  for (int i = 0; i < 4000; ++i) text += "line " + std::to_string(i) + "\n";
  ByteTokenizer tokenizer(0.25, text.size());
  tokenizer.add(text);
  for (const Tokens* tokens : {&tokenizer.train(), &tokenizer.val()})
    for (std::size_t i = 1; i < tokens->size(); ++i)
      if ((*tokens)[i] == kEndOfText) REQUIRE((*tokens)[i - 1] == '\n');
  CHECK(std::count(tokenizer.val().begin(), tokenizer.val().end(), kEndOfText) >= 8);
}

TEST_CASE("a text without line ends is cut all the same") {
  ByteTokenizer tokenizer(0.5, 100000);
  tokenizer.add(std::string(100000, 'x'));
  CHECK(count_bytes(tokenizer.val()) == Approx(50000).margin(tokenizer.block_bytes()));
}

TEST_CASE("a held-out share out of range is refused") {
  CHECK_THROWS_AS(ByteTokenizer(-0.1, 1), Error);
  CHECK_THROWS_AS(ByteTokenizer(0.6, 1), Error);
}

}  // namespace
}  // namespace weft::tools
