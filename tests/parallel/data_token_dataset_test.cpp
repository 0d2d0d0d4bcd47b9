#include <numeric>

#include "core/rng.h"
#include "parallel/data/token_dataset.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/megatron.h"
#include "tests/support/temp_folder.h"

namespace weft::test {
namespace {

using parallel::TokenDataset;
using parallel::TokenDatasetOptions;
using Tokens = std::vector<std::int32_t>;
using Flags = std::vector<std::uint8_t>;

std::string put_llmc(const std::filesystem::path& path, const Tokens& tokens) {
  TokenShardWriter writer(path);
  writer.append(tokens);
  writer.finish();
  return path.string();
}

TEST_CASE("samples are windows that share one token", "[data]") {
  const TempFolder folder;
  Tokens tokens(23);
  std::iota(tokens.begin(), tokens.end(), 0);
  const TokenDataset data({{put_llmc(folder / "a.bin", tokens)}, 5, 100, {}});
  CHECK(data.num_tokens() == 23);
  REQUIRE(data.num_samples() == 4);  // (23 - 1) / 5
  CHECK(data.read(0).tokens == Tokens{0, 1, 2, 3, 4, 5});
  CHECK(data.read(3).tokens == Tokens{15, 16, 17, 18, 19, 20});
  CHECK(data.read(0).starts_document == Flags{1, 0, 0, 0, 0, 0});
  CHECK(data.read(1).starts_document == Flags{0, 0, 0, 0, 0, 0});
  check_error(ErrorCode::kInvalidArgument, "sample 4 of 4", [&] { (void)data.read(4); });
  check_error(ErrorCode::kInvalidArgument, "sample -1 of 4", [&] { (void)data.read(-1); });
}

TEST_CASE("a sample needs S + 1 tokens", "[data]") {
  const TempFolder folder;
  const std::string path = put_llmc(folder / "a.bin", Tokens(6, 1));
  CHECK(TokenDataset({{path}, 5, 10, {}}).num_samples() == 1);
  check_error(ErrorCode::kInvalidArgument, "6 tokens, one sample needs 7", [&] { TokenDataset({{path}, 6, 10, {}}); });
  check_error(ErrorCode::kInvalidArgument, "and 1 more: 12 tokens", [&] { TokenDataset({{path, path}, 12, 10, {}}); });
  check_error(ErrorCode::kInvalidArgument, "no token files", [&] { TokenDataset({{}, 6, 10, {}}); });
  check_error(ErrorCode::kInvalidArgument, "sequence length of 0", [&] { TokenDataset({{path}, 0, 10, {}}); });
  check_error(ErrorCode::kInvalidArgument, "vocabulary of 0", [&] { TokenDataset({{path}, 5, 0, {}}); });
  check_error(ErrorCode::kIo, "missing.bin", [&] { TokenDataset({{(folder / "missing.bin").string()}, 5, 10, {}}); });
}

TEST_CASE("documents start at end-of-text, at files, and where an index says so", "[data]") {
  const TempFolder folder;
  const std::string llmc = put_llmc(folder / "a.bin", {9, 1, 2, 9, 9, 3});
  put_megatron(folder / "m", {{4, 9}, {5, 6, 9}});  // ends documents with 9; only the index counts
  const std::string megatron = (folder / "m").string();
  const TokenDataset data({{llmc, megatron, llmc}, 16, 10, 9});
  CHECK(data.read(0).tokens == Tokens{9, 1, 2, 9, 9, 3, 4, 9, 5, 6, 9, 9, 1, 2, 9, 9, 3});
  CHECK(data.read(0).starts_document == Flags{1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 1, 0});
  const TokenDataset without({{llmc, megatron}, 10, 10, {}});
  CHECK(without.read(0).starts_document == Flags{1, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0});
}

/// Random files, empty ones and of one token among them, against one plain array.
TEST_CASE("windows over many files are windows over their tokens", "[data]") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    INFO("seed " << seed);
    const TempFolder folder;
    const Rng rng(seed, RngPurpose::kTest);
    TokenDatasetOptions options{{}, 1 + static_cast<std::int64_t>(rng.below(9, 1000)), 50, 0};
    Tokens all;
    Flags starts;
    for (std::uint64_t f = 0; f < 7; ++f) {
      Tokens tokens(f == 6 ? 20 : rng.below(4, f) * rng.below(6, 100 + f));
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = static_cast<std::int32_t>(rng.below(5, f * 1000 + i + 7777));
        starts.push_back(i == 0 || tokens[i] == 0);
      }
      all.insert(all.end(), tokens.begin(), tokens.end());
      options.paths.push_back(put_llmc(folder / str(f, ".bin"), tokens));
    }
    const TokenDataset data(options);
    REQUIRE(data.num_tokens() == static_cast<std::int64_t>(all.size()));
    CHECK(data.num_samples() == (data.num_tokens() - 1) / options.sequence_length);
    for (std::int64_t s = 0; s < data.num_samples(); ++s) {
      const auto begin = s * options.sequence_length, end = begin + options.sequence_length + 1;
      CHECK(data.read(s).tokens == Tokens(all.begin() + begin, all.begin() + end));
      CHECK(data.read(s).starts_document == Flags(starts.begin() + begin, starts.begin() + end));
    }
  }
}

TEST_CASE("a token outside the vocabulary is named with its file and place", "[data]") {
  const TempFolder folder;
  const std::string a = put_llmc(folder / "a.bin", {1, 2, 3}), b = put_llmc(folder / "b.bin", {4, 5, 257, 6, 7});
  const TokenDataset data({{a, b}, 2, 257, {}});
  CHECK_NOTHROW(data.read(0));
  CHECK_NOTHROW(data.read(1));
  const std::string text = b + ": token 2 has the id 257, the vocabulary has 257 tokens";
  check_error(ErrorCode::kInvalidArgument, text, [&] { (void)data.read(2); });
  CHECK_NOTHROW(data.check_tokens(0, 5));
  CHECK_NOTHROW(data.check_tokens(6, 2));
  CHECK_NOTHROW(data.check_tokens(8, 0));
  check_error(ErrorCode::kInvalidArgument, text, [&] { data.check_tokens(0, 8); });
  check_error(ErrorCode::kInvalidArgument, text, [&] { data.check_tokens(5, 1); });
  check_error(ErrorCode::kInvalidArgument, "of 8", [&] { data.check_tokens(5, 4); });
}

TEST_CASE("check_tokens looks at long files to their end", "[data]") {
  const TempFolder folder;
  Tokens tokens(200000, 1);
  tokens.back() = 12;
  const TokenDataset data({{put_llmc(folder / "a.bin", tokens)}, 5, 12, {}});
  CHECK_NOTHROW(data.check_tokens(0, 199999));
  check_error(ErrorCode::kInvalidArgument, "token 199999 has the id 12", [&] { data.check_tokens(0, 200000); });
}

}  // namespace
}  // namespace weft::test
