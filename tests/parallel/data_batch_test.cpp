#include <algorithm>
#include <numeric>
#include <set>

#include "parallel/data/batch.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/megatron.h"
#include "tests/support/temp_folder.h"

namespace weft::test {
namespace {

using parallel::AttendAcrossDocuments;
using parallel::Batch;
using parallel::BatchLayout;
using parallel::TokenDataset;
using parallel::ValidationLayout;
using Ids = std::vector<std::int32_t>;
using Places = std::vector<std::int64_t>;

/// A data set of one llm.c file.
TokenDataset dataset_of(const TempFolder& folder, const Ids& tokens, std::int64_t sequence_length,
                        std::optional<std::int32_t> end_of_text = {}) {
  TokenShardWriter writer(folder / "d.bin");
  writer.append(tokens);
  writer.finish();
  return TokenDataset({{(folder / "d.bin").string()}, sequence_length, 100000, end_of_text});
}

Ids numbers(std::size_t n) {
  Ids tokens(n);
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST_CASE("a batch without documents counts each sequence as one segment", "[data]") {
  const TempFolder folder;
  const TokenDataset data = dataset_of(folder, numbers(20), 4);
  const Places samples{3, 0}, ids{70, 71};
  for (const auto attend : {AttendAcrossDocuments::kNo, AttendAcrossDocuments::kYes}) {
    const Batch batch = make_batch(data, samples, ids, attend);
    CHECK(batch.num_sequences == 2);
    CHECK(batch.sequence_length == 4);
    CHECK(batch.num_tokens() == 8);
    CHECK(batch.tokens == Ids{12, 13, 14, 15, 0, 1, 2, 3});
    CHECK(batch.targets == Ids{13, 14, 15, 16, 1, 2, 3, 4});
    CHECK(batch.positions == Ids{0, 1, 2, 3, 0, 1, 2, 3});
    CHECK(batch.segments == Ids{0, 0, 0, 0, 1, 1, 1, 1});
    CHECK(batch.sample_ids == ids);
    CHECK(parallel::count_valid_targets(batch.targets) == 8);
  }
}

TEST_CASE("documents in llm.c form: each is a segment, end-of-text is a target", "[data]") {
  const TempFolder folder;
  //                                   v  document     v  v
  const TokenDataset data = dataset_of(folder, {9, 1, 2, 9, 9, 3, 4, 5, 9, 6, 7, 8, 1}, 6, 9);
  const Places both{0, 1};
  const Batch apart = make_batch(data, both, both, AttendAcrossDocuments::kNo);
  CHECK(apart.tokens == Ids{9, 1, 2, 9, 9, 3, 4, 5, 9, 6, 7, 8});
  CHECK(apart.targets == Ids{1, 2, 9, 9, 3, 4, 5, 9, 6, 7, 8, 1});
  CHECK(apart.positions == Ids{0, 1, 2, 0, 0, 1, 0, 1, 0, 1, 2, 3});
  CHECK(apart.segments == Ids{0, 0, 0, 1, 2, 2, 3, 3, 4, 4, 4, 4});
  CHECK(parallel::count_valid_targets(apart.targets) == 12);
  const Batch across = make_batch(data, both, both, AttendAcrossDocuments::kYes);
  CHECK(across.targets == apart.targets);
  CHECK(across.positions == Ids{0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5});
  CHECK(across.segments == Ids{0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1});
}

TEST_CASE("a document that nothing announces is no target of the one before", "[data]") {
  const TempFolder folder;
  put_megatron(folder / "m", {{1, 2, 9}, {3, 4, 9}, {5}});
  const TokenDataset data({{(folder / "m").string()}, 6, 10, 9});
  const Places one{0};
  const Batch apart = make_batch(data, one, one, AttendAcrossDocuments::kNo);
  CHECK(apart.tokens == Ids{1, 2, 9, 3, 4, 9});
  CHECK(apart.targets == Ids{2, 9, -1, 4, 9, -1});
  CHECK(apart.segments == Ids{0, 0, 0, 1, 1, 1});
  CHECK(parallel::count_valid_targets(apart.targets) == 4);
  const Batch across = make_batch(data, one, one, AttendAcrossDocuments::kYes);
  CHECK(across.targets == Ids{2, 9, 3, 4, 9, 5});
  CHECK(parallel::count_valid_targets(across.targets) == 6);
}

TEST_CASE("a batch may be empty", "[data]") {
  const TempFolder folder;
  const TokenDataset data = dataset_of(folder, numbers(20), 4);
  const Batch batch = make_batch(data, {}, {}, AttendAcrossDocuments::kNo);
  CHECK(batch.num_tokens() == 0);
  CHECK(batch.sequence_length == 4);
  CHECK(batch.tokens.empty());
  CHECK(parallel::count_valid_targets(batch.targets) == 0);
  const Places one{0};
  check_error(ErrorCode::kInvalidArgument, "1 samples, 0 sample ids",
              [&] { (void)make_batch(data, one, {}, AttendAcrossDocuments::kNo); });
}

TEST_CASE("every layout takes each place of a step once, in unbroken runs", "[data]") {
  for (const std::int64_t global_batch : {1, 6, 16, 24}) {
    for (const int dp_size : {1, 2, 3, 4, 8}) {
      for (const std::int64_t micro_batch : {1, 2, 3, 4}) {
        if (global_batch % (dp_size * micro_batch) != 0) continue;
        INFO(global_batch << " sequences on " << dp_size << " ranks by " << micro_batch);
        for (const std::int64_t step : {0, 1, 57}) {
          Places places;
          for (int rank = 0; rank < dp_size; ++rank) {
            const BatchLayout layout{global_batch, micro_batch, dp_size, rank};
            for (std::int64_t m = 0; m < layout.num_micro_batches(); ++m)
              for (std::int64_t i = 0; i < micro_batch; ++i) places.push_back(layout.first_place(step, m) + i);
          }
          Places expected(static_cast<std::size_t>(global_batch));
          std::iota(expected.begin(), expected.end(), step * global_batch);
          CHECK(places == expected);
        }
      }
    }
  }
}

TEST_CASE("a layout that does not divide is refused", "[data]") {
  const auto refused = [](const BatchLayout& layout, const std::string& text) {
    check_error(ErrorCode::kInvalidArgument, text, [&] { (void)layout.num_micro_batches(); });
  };
  refused({16, 3, 2, 0}, "global_batch 16 is no multiple of data-parallel ranks (2) * micro_batch (3)");
  refused({0, 1, 1, 0}, "global_batch 0");
  refused({4, 0, 1, 0}, "micro_batch 0");
  refused({4, 1, 2, 2}, "rank 2 of 2");
  check_error(ErrorCode::kInvalidArgument, "micro-batch 2 of 2", [] {
    (void)BatchLayout{4, 2, 1, 0}.first_place(0, 2);
  });
  check_error(ErrorCode::kInvalidArgument, "at step -1", [] { (void)BatchLayout{4, 2, 1, 0}.first_place(-1, 0); });
}

TEST_CASE("the sequences of a step do not depend on the layout", "[data]") {
  const TempFolder folder;
  const TokenDataset data = dataset_of(folder, numbers(500), 7);
  const parallel::SampleOrder order(11, data.num_samples());
  const auto tokens_of = [&](std::int64_t step, std::int64_t micro_batch, int dp_size) {
    Ids tokens;
    Places ids;
    for (int rank = 0; rank < dp_size; ++rank) {
      const BatchLayout layout{12, micro_batch, dp_size, rank};
      for (std::int64_t m = 0; m < layout.num_micro_batches(); ++m) {
        const Batch batch = train_batch(data, order, layout, step, m, AttendAcrossDocuments::kNo);
        CHECK(batch.num_sequences == micro_batch);
        tokens.insert(tokens.end(), batch.tokens.begin(), batch.tokens.end());
        ids.insert(ids.end(), batch.sample_ids.begin(), batch.sample_ids.end());
      }
    }
    CHECK(ids.front() == step * 12);
    CHECK(std::ranges::is_sorted(ids));
    return tokens;
  };
  for (const std::int64_t step : {0, 3, 5, 6}) {  // 71 samples: step 5 crosses into the second epoch
    const Ids expected = tokens_of(step, 12, 1);
    for (std::size_t s = 0; s < 12; ++s) {
      const std::int64_t sample = order(step * 12 + static_cast<std::int64_t>(s));
      CHECK(expected[s * 7] == static_cast<std::int32_t>(sample * 7));
    }
    CHECK(tokens_of(step, 1, 1) == expected);
    CHECK(tokens_of(step, 3, 4) == expected);
    CHECK(tokens_of(step, 2, 3) == expected);
    CHECK(tokens_of(step, 1, 12) == expected);
  }
  const parallel::SampleOrder other(11, 5);
  check_error(ErrorCode::kInvalidArgument, "an order of 5 samples", [&] {
    (void)train_batch(data, other, {12, 1, 1, 0}, 0, 0, AttendAcrossDocuments::kNo);
  });
}

TEST_CASE("validation is the first samples in file order, whatever the layout", "[data]") {
  const TempFolder folder;
  const TokenDataset data = dataset_of(folder, numbers(100), 4);  // 24 samples
  REQUIRE(data.num_samples() == 24);
  for (const std::int64_t n : {1, 5, 16, 24}) {
    for (const int dp_size : {1, 2, 3, 8}) {
      for (const std::int64_t micro_batch : {1, 2, 5}) {
        INFO(n << " sequences on " << dp_size << " ranks by " << micro_batch);
        std::set<std::int64_t> seen;
        std::int64_t num_rounds = -1, num_sequences = 0;
        for (int rank = 0; rank < dp_size; ++rank) {
          const ValidationLayout layout =
              validation_layout(data, n, {dp_size * micro_batch, micro_batch, dp_size, rank});
          CHECK((num_rounds == -1 || layout.num_rounds() == num_rounds));  // every rank takes part in all
          num_rounds = layout.num_rounds();
          for (std::int64_t round = 0; round < num_rounds; ++round) {
            const Batch batch = validation_batch(data, layout, round, AttendAcrossDocuments::kNo);
            num_sequences += batch.num_sequences;
            for (std::int64_t s = 0; s < batch.num_sequences; ++s) {
              const std::int64_t id = batch.sample_ids[static_cast<std::size_t>(s)];
              CHECK(batch.tokens[static_cast<std::size_t>(s * 4)] == id * 4);
              seen.insert(id);
            }
          }
        }
        CHECK(num_sequences == n);
        CHECK(static_cast<std::int64_t>(seen.size()) == n);
        CHECK(*seen.rbegin() == n - 1);
      }
    }
  }
}

TEST_CASE("validation takes all there is when asked for all or more", "[data]") {
  const TempFolder folder;
  const TokenDataset data = dataset_of(folder, numbers(100), 4);
  CHECK(validation_layout(data, 0, {2, 2, 1, 0}).num_sequences == 24);
  CHECK(validation_layout(data, 1000, {2, 2, 1, 0}).num_sequences == 24);
  CHECK(validation_layout(data, 7, {2, 2, 1, 0}).num_rounds() == 4);
  check_error(ErrorCode::kInvalidArgument, "-1 sequences", [&] { (void)validation_layout(data, -1, {2, 2, 1, 0}); });
  const auto layout = validation_layout(data, 7, {2, 2, 1, 0});
  check_error(ErrorCode::kInvalidArgument, "round 4 of 4",
              [&] { (void)validation_batch(data, layout, 4, AttendAcrossDocuments::kNo); });
}

}  // namespace
}  // namespace weft::test
