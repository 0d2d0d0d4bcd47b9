// Who holds which tokens, who meets whom in a ring, and the order of rows and heads around an exchange.
#include "parallel/attention/layout.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "parallel/attention/heads.h"
#include "parallel/attention/ring.h"
#include "parallel/data/shard.h"
#include "tests/support/catch.h"
#include "tests/support/generators.h"

using namespace weft;
using namespace weft::parallel;
using test::Grid;
using test::Random;

namespace {

struct Split {
  int ring, heads;
  std::int64_t length;
};
const std::vector<Split> kSplits{{1, 1, 7},  {1, 2, 8},  {1, 4, 24}, {2, 1, 4},  {3, 1, 12}, {4, 1, 64},
                                 {2, 2, 16}, {4, 2, 48}, {2, 4, 32}, {3, 2, 24}, {16, 1, 64}};

Stream& stream() {
  static const std::unique_ptr<Stream> inline_stream = make_inline_stream();
  return *inline_stream;
}

double inner_product(const Grid<double>& a, const Grid<double>& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.rows(); ++i)
    for (std::int64_t j = 0; j < a.cols(); ++j) sum += a(i, j) * b(i, j);
  return sum;
}

}  // namespace

TEST_CASE("a layout has every token once, in ascending rows, evenly", "[sequence]") {
  for (const Split& s : kSplits)
    for (const int sequences : {0, 1, 3}) {
      INFO("ring " << s.ring << ", heads " << s.heads << ", " << sequences << " sequences of " << s.length);
      const SequenceGroup group{s.ring, s.heads};
      const Layout layout = zigzag_layout(sequences, s.length, group);
      std::vector<std::int64_t> all;
      for (int rank = 0; rank < group.size(); ++rank) {
        const auto tokens = tokens_of(layout, rank, s.length);
        CHECK(layout.num_rows(rank) == sequences * s.length / group.size());
        CHECK(std::ranges::is_sorted(tokens));
        all.insert(all.end(), tokens.begin(), tokens.end());
      }
      std::ranges::sort(all);
      std::vector<std::int64_t> expected(static_cast<std::size_t>(sequences * s.length));
      std::iota(expected.begin(), expected.end(), 0);
      CHECK(all == expected);
      // after the exchange, a ring rank has chunks r and 2 * ring - 1 - r of each sequence
      CHECK(gather_heads(layout, s.heads) == zigzag_layout(sequences, s.length, {s.ring, 1}));
    }
  CHECK_THROWS_AS(zigzag_layout(1, 12, {2, 2}), Error);
  CHECK_THROWS_AS(zigzag_layout(1, 6, {2, 1}), Error);
}

TEST_CASE("a ring's steps cover the causal pairs, half a block each, evenly", "[sequence]") {
  for (const Split& s : kSplits) {
    INFO("ring " << s.ring << ", length " << s.length);
    const Layout core = zigzag_layout(1, s.length, {s.ring, 1});
    const std::int64_t rows = s.length / s.ring;
    double total = 0.0;
    for (int rank = 0; rank < s.ring; ++rank) {
      const auto queries = tokens_of(core, rank, s.length);
      const auto steps = ring_steps(core, rank);
      REQUIRE(steps.size() == static_cast<std::size_t>(s.ring));
      for (std::size_t i = 0; i < steps.size(); ++i) {
        CHECK(steps[i].source == (rank - static_cast<int>(i) + s.ring) % s.ring);
        REQUIRE(steps[i].tiles.size() == 1);
        const Tile& tile = steps[i].tiles.front();
        const auto keys = tokens_of(core, steps[i].source, s.length);
        double pairs = 0.0, inside = 0.0;
        for (std::int64_t q = 0; q < rows; ++q)
          for (std::int64_t k = 0; k < rows; ++k) {
            if (keys[static_cast<std::size_t>(k)] > queries[static_cast<std::size_t>(q)]) continue;
            pairs += 1.0;
            inside += q >= tile.q_first && q < tile.q_first + tile.q_rows && k >= tile.k_first &&
                      k < tile.k_first + tile.k_rows;
          }
        CHECK(steps[i].pairs == pairs);
        CHECK(inside == pairs);
        if (i > 0) CHECK(pairs == double(rows * rows) / 2);  // every foreign step costs the same, nothing of it masked
        if (i > 0) CHECK(double(tile.q_rows * tile.k_rows) == pairs);
        total += pairs;
      }
    }
    CHECK(total == double(s.length) * double(s.length + 1) / 2);
  }
}

TEST_CASE("key/value heads are copied to all who read them", "[sequence]") {
  struct Heads {
    std::int64_t query, kv;
    int ranks;
    std::int64_t copies;  // held by a rank
  };
  for (const Heads& h : {Heads{8, 8, 4, 2},
                         {8, 2, 2, 1},
                         {8, 2, 4, 1},
                         {8, 2, 8, 1},
                         {12, 4, 6, 2},
                         {12, 4, 3, 4},
                         {6, 2, 3, 2},
                         {4, 1, 4, 1},
                         {5, 5, 1, 5}}) {
    INFO(h.query << " heads, " << h.kv << " key/value heads, " << h.ranks << " ranks");
    const HeadSplit split = split_heads(h.query, h.kv, 3, h.ranks);
    CHECK(split.kv_heads == h.copies);
    for (int rank = 0; rank < h.ranks; ++rank)
      for (std::int64_t q = 0; q < split.heads; ++q)  // the kernel's rule, against the model's
        CHECK(split.kv_head(rank, q / (split.heads / split.kv_heads)) == (rank * split.heads + q) / (h.query / h.kv));
  }
  CHECK_THROWS_AS(split_heads(6, 2, 8, 4), Error);
}

TEST_CASE("what comes back from an exchange is the transpose of what went out", "[sequence]") {
  for (const auto& [query, kv, ranks] : {std::tuple{8, 2, 4}, {6, 2, 3}, {4, 4, 2}, {12, 4, 6}}) {
    Random random(static_cast<std::uint64_t>(query * ranks));
    const HeadSplit split = split_heads(query, kv, 3, ranks);
    const CoreOrder order{ranks, 2, 5};
    const std::int64_t local = 10, rows = local * ranks, width = (query + 2 * kv) * 3;
    const auto x = Grid<double>::normal(random, local, width, 1);
    const auto y = Grid<double>::normal(random, rows, split.width());
    Grid<double> packed(rows, split.width()), back(local, width), ordered(rows, split.width()), again = ordered;
    pack_heads<double>(stream(), packed.view(), x.view(), split);
    unpack_head_gradients<double>(stream(), back.view(), y.view(), split);
    CHECK(inner_product(packed, y) == Approx(inner_product(x, back)).epsilon(1e-12));
    to_core_order<double>(stream(), ordered.view(), y.view(), order);
    from_core_order<double>(stream(), again.view(), std::as_const(ordered).view(), order);
    CHECK(inner_product(again, y) == inner_product(y, y));
    // rank 1's second sequence, third row: behind rank 0's rows of that sequence
    CHECK(ordered(order.num_ranks * 5 + 5 + 2, 1) == y(local + 5 + 2, 1));

    const auto context = Grid<double>::normal(random, local, query * 3);
    Grid<double> sent(rows, split.q_width()), returned(local, query * 3);
    pack_context<double>(stream(), sent.view(), context.view(), split);
    CHECK(sent(local + 4, 2) == context(4, split.q_width() + 2));
    unpack_context<double>(stream(), returned.view(), std::as_const(sent).view(), split);
    CHECK(inner_product(returned, context) == inner_product(context, context));
  }
}

TEST_CASE("a rank's batch keeps each token's own target, position and document", "[sequence]") {
  for (const Split& s : kSplits) {
    Batch batch;
    batch.num_sequences = 2;
    batch.sequence_length = s.length;
    for (std::int32_t i = 0; i < batch.num_tokens(); ++i) {
      batch.tokens.push_back(i);
      batch.targets.push_back(i + 1);
      batch.positions.push_back(i % 5);
      batch.segments.push_back(i / 5);
    }
    const SequenceGroup group{s.ring, s.heads};
    std::vector<std::int32_t> seen;
    for (int rank = 0; rank < group.size(); ++rank) {
      const LocalBatch local = shard(batch, group, rank);
      const MicroBatch view = local.view();
      const std::size_t rows = local.tokens.size(), core = rows * static_cast<std::size_t>(s.heads);
      REQUIRE(local.core_positions.size() == core * static_cast<std::size_t>(s.ring));
      for (std::size_t i = 0; i < rows; ++i) {
        const std::int32_t token = view.tokens[i];
        seen.push_back(token);
        CHECK(view.targets[i] == token + 1);
        CHECK(view.positions[i] == token % 5);
        CHECK(view.segments[i] == token / 5);
        // its row in the core: behind the ranks before it in its sequence
        const std::size_t n = rows / 2, ring_rank = static_cast<std::size_t>(rank / s.heads);
        const std::size_t place = ring_rank * core + i / n * n * static_cast<std::size_t>(s.heads) +
                                  static_cast<std::size_t>(rank % s.heads) * n + i % n;
        CHECK(view.core_positions[place] == token % 5);
        CHECK(view.core_segments[place] == token / 5);
      }
    }
    std::ranges::sort(seen);
    CHECK(seen == batch.tokens);
  }
}
