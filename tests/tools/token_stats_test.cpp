#include "tools/data/token_stats.h"

#include <cmath>

#include "core/error.h"
#include "tests/support/catch.h"

namespace weft::tools {
namespace {

using Tokens = std::vector<std::int32_t>;

// Tokens in memory; with `starts`, it knows its documents, as a Megatron file does.
class FakeShard final : public TokenShard {
 public:
  explicit FakeShard(Tokens tokens, std::optional<std::vector<std::int64_t>> starts = {})
      : tokens_(std::move(tokens)), starts_(std::move(starts)) {}
  std::int64_t num_tokens() const noexcept override { return static_cast<std::int64_t>(tokens_.size()); }
  std::string_view format() const noexcept override { return "fake"; }
  std::string_view token_type() const noexcept override { return "int32"; }
  const std::filesystem::path& path() const noexcept override { return path_; }
  std::optional<std::span<const std::int64_t>> document_starts() const noexcept override {
    if (!starts_) return std::nullopt;
    return std::span<const std::int64_t>(*starts_);
  }
  void read(std::int64_t first, std::span<std::int32_t> out) const override {
    std::copy_n(tokens_.begin() + first, out.size(), out.begin());
  }

 private:
  Tokens tokens_;
  std::optional<std::vector<std::int64_t>> starts_;
  std::filesystem::path path_ = "fake";
};

template <class... Shards>
TokenStats stats_of(const InspectOptions& options, Shards... shards) {
  std::vector<std::unique_ptr<TokenShard>> list;
  (list.push_back(std::make_unique<FakeShard>(std::move(shards))), ...);
  return inspect_tokens(list, options);
}

TEST_CASE("documents begin with the first token of a file that does not know them") {
  const TokenStats stats = stats_of({}, FakeShard({9, 1, 2, 9, 1, 9}));
  CHECK(stats.num_tokens == 6);
  CHECK(stats.num_documents == 3);
  CHECK(stats.longest_document == 3);
  CHECK(stats.max_id == 9);
  CHECK(stats.num_ids == 3);
  REQUIRE(stats.counts.size() == 3);
  CHECK((stats.counts[0].token == 9 && stats.counts[0].count == 3));
  CHECK((stats.counts[1].token == 1 && stats.counts[1].count == 2));
  CHECK((stats.counts[2].token == 2 && stats.counts[2].count == 1));
  CHECK(!stats.entropy);
}

TEST_CASE("the mark of documents can be given") {
  CHECK(stats_of({.end_of_text = 1}, FakeShard({9, 1, 2, 9, 1, 9})).num_documents == 3);  // the first begins without
  CHECK(stats_of({.end_of_text = 5}, FakeShard({9, 1, 2, 9, 1, 9})).num_documents == 1);
}

TEST_CASE("documents are where the file says") {
  const TokenStats stats = stats_of({}, FakeShard({9, 1, 2, 9, 1, 9}, std::vector<std::int64_t>{0, 2}));
  CHECK(stats.num_documents == 2);
  CHECK(stats.longest_document == 4);
}

TEST_CASE("entropy counts no n-gram across documents or files, and no mark") {
  // "ab", "ab", "ac": after a comes b twice, c once
  const double expected = -(2.0 / 3 * std::log(2.0 / 3) + 1.0 / 3 * std::log(1.0 / 3));
  const InspectOptions bigrams{.entropy_order = 2};
  CHECK(*stats_of(bigrams, FakeShard({9, 0, 1, 9, 0, 1, 9, 0, 2})).entropy == Approx(expected));
  CHECK(*stats_of(bigrams, FakeShard({9, 0, 1, 9, 0, 1}), FakeShard({7, 0, 2})).entropy == Approx(expected));
  const std::vector<std::int64_t> starts{0, 2, 4};
  CHECK(*stats_of(bigrams, FakeShard({0, 1, 0, 1, 0, 2}, starts)).entropy == Approx(expected));
}

TEST_CASE("files longer than a chunk are seen whole") {
  Tokens tokens(200000, 1);
  tokens[0] = tokens[65536] = tokens[131071] = 3;
  const TokenStats stats = stats_of({.entropy_order = 1}, FakeShard(tokens));
  CHECK(stats.num_tokens == 200000);
  CHECK(stats.num_documents == 3);
  CHECK(stats.longest_document == 200000 - 131071);
  CHECK(*stats.entropy == Approx(0.0).margin(1e-12));
}

TEST_CASE("empty files have nothing in them") {
  const TokenStats stats = stats_of({.entropy_order = 3}, FakeShard({}), FakeShard({}, std::vector<std::int64_t>{}));
  CHECK(stats.num_tokens == 0);
  CHECK(stats.num_documents == 0);
  CHECK(stats.max_id == -1);
  CHECK(stats.counts.empty());
  CHECK(*stats.entropy == 0.0);
}

TEST_CASE("an impossible order is refused") {
  CHECK_THROWS_AS(stats_of({.entropy_order = -1}, FakeShard({1})), Error);
  CHECK_THROWS_AS(stats_of({.entropy_order = 9}, FakeShard({1})), Error);
}

}  // namespace
}  // namespace weft::tools
