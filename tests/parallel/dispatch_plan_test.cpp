#include "parallel/moe/dispatch_plan.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "core/rng.h"
#include "tests/support/catch.h"

using namespace weft;
using namespace weft::parallel;

namespace {

struct Case {
  std::int64_t rows, top_k;
  int experts, ranks, forward, backward;
  int shards = 1;  // ESP
  [[nodiscard]] int sources() const { return ranks * shards; }
};

/// Every source's choices, and the plans after the exchange of counts. Source q = ESP rank * EP + EP rank.
struct World {
  std::vector<std::vector<std::int32_t>> kept;  // [sources] of [T, K]
  std::vector<DispatchPlan> plans;
};

World make_world(const Case& c, std::uint64_t seed) {
  World w;
  for (int r = 0; r < c.sources(); ++r) {
    const Rng rng(seed, RngPurpose::kTest, static_cast<std::uint64_t>(r));
    std::vector<std::int32_t>& kept = w.kept.emplace_back();
    for (std::int64_t i = 0; i < c.rows * c.top_k; ++i)
      kept.push_back(static_cast<std::int32_t>(
                         rng.below(static_cast<std::uint64_t>(c.experts) + 1, static_cast<std::uint64_t>(i))) -
                     1);
    DispatchPlan& plan = w.plans.emplace_back(
        DispatchDims{c.rows, c.experts, c.ranks, r % c.ranks, c.shards, r / c.ranks, false, c.forward, c.backward});
    plan.count_choices(*make_inline_stream(), {kept.data(), c.rows, c.top_k});
  }
  for (int dst = 0; dst < c.sources(); ++dst)
    for (int src = 0; src < c.sources(); ++src) {
      const auto n = static_cast<std::size_t>(w.plans[dst].counts_per_peer());
      std::copy_n(w.plans[src].counts_to_send().begin() + static_cast<std::ptrdiff_t>(n * dst), n,
                  w.plans[dst].counts_to_receive().begin() + static_cast<std::ptrdiff_t>(n * src));
    }
  for (DispatchPlan& plan : w.plans) {
    plan.fetch_counts(*make_inline_stream());
    plan.finish();
  }
  return w;
}

/// Row of the target that each of n rows goes to; -1: none.
std::vector<std::int32_t> targets(const std::vector<kernels::RowBlock>& blocks, std::int64_t n) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(n), -1);
  for (const kernels::RowBlock& b : blocks)
    for (std::int64_t i = 0; i < b.count; ++i)
      out[static_cast<std::size_t>(b.from + i)] = static_cast<std::int32_t>(b.to + i);
  return out;
}

using Row = std::tuple<int, int, std::int64_t, std::int64_t>;  // expert, source, token, choice

/// The rows of chunk c that the experts of `dst` compute, in gathered order: as all-to-all-v and all-gather-v deliver
/// them.
std::vector<Row> arrivals(const World& w, const Case& c, bool backward, int chunk, int dst) {
  std::vector<Row> out;
  const int local = c.experts / c.ranks;
  dst %= c.ranks;
  for (int src = 0; src < c.sources(); ++src) {
    const auto cuts = w.plans[src].cuts(backward);
    for (int e = dst * local; e < (dst + 1) * local; ++e)
      for (std::int64_t t = cuts[chunk]; t < cuts[chunk + 1]; ++t)
        for (std::int64_t k = 0; k < c.top_k; ++k)
          if (w.kept[src][t * c.top_k + k] == e) out.emplace_back(e, src, t, k);
  }
  return out;
}

void check_chunk(World& w, const Case& c, bool backward, int chunk) {
  for (int rank = 0; rank < c.sources(); ++rank) {
    const ChunkRows& rows = w.plans[rank].chunk(backward, chunk);
    const std::vector<Row> arrived = arrivals(w, c, backward, chunk, rank);
    REQUIRE(rows.num_rows == static_cast<std::int64_t>(arrived.size()));
    for (int s = 0; s < c.shards; ++s)
      CHECK(rows.shard_rows[s] == w.plans[s * c.ranks + rank % c.ranks].chunk(backward, chunk).num_recv);
    const int first = rank / c.ranks * c.ranks;  // of the EP group
    for (int peer = 0; peer < c.ranks; ++peer)
      CHECK(rows.send_rows[peer] == w.plans[first + peer].chunk(backward, chunk).recv_rows[rank - first]);
    std::vector<Row> sorted = arrived;  // expert order: by (expert, source, token, choice)
    std::sort(sorted.begin(), sorted.end());
    const std::vector<std::int32_t> expert_of = targets(rows.to_experts, rows.num_rows);
    const std::vector<std::int32_t> gathered_of = targets(rows.from_experts, rows.num_rows);
    for (std::size_t i = 0; i < sorted.size(); ++i) {
      REQUIRE(gathered_of[i] >= 0);
      CHECK(arrived[gathered_of[i]] == sorted[i]);
      CHECK(expert_of[gathered_of[i]] == static_cast<std::int32_t>(i));
      const int local_expert = std::get<0>(sorted[i]) % (c.experts / c.ranks);
      CHECK(rows.expert_offsets[local_expert] <= static_cast<std::int64_t>(i));
      CHECK(static_cast<std::int64_t>(i) < rows.expert_offsets[local_expert + 1]);
    }
    // Send order: by (expert, token, choice); the table and its inverse agree.
    std::vector<std::int32_t> row(c.rows * c.top_k, -2), token(c.rows * c.top_k, -2);
    w.plans[rank].place(*make_inline_stream(), backward, chunk, {w.kept[rank].data(), c.rows, c.top_k}, {},
                        {{row.data(), c.rows, c.top_k}, token.data()});
    const auto cuts = w.plans[rank].cuts(backward);
    std::vector<std::tuple<int, std::int64_t, std::int64_t>> sends;
    for (std::int64_t t = cuts[chunk]; t < cuts[chunk + 1]; ++t)
      for (std::int64_t k = 0; k < c.top_k; ++k)
        if (w.kept[rank][t * c.top_k + k] >= 0) sends.emplace_back(w.kept[rank][t * c.top_k + k], t, k);
    std::sort(sends.begin(), sends.end());
    REQUIRE(rows.num_send == static_cast<std::int64_t>(sends.size()));
    for (std::size_t i = 0; i < sends.size(); ++i) {
      const auto [e, t, k] = sends[i];
      CHECK(row[t * c.top_k + k] == static_cast<std::int32_t>(i));
      CHECK(token[i] == t);
    }
  }
}

}  // namespace

TEST_CASE("Rows are counted, placed and ordered as they travel", "[dispatch]") {
  const Case c = GENERATE(Case{13, 2, 4, 1, 1, 1}, Case{13, 2, 4, 2, 3, 3}, Case{13, 3, 8, 4, 2, 5},
                          Case{1, 1, 4, 4, 1, 3}, Case{0, 2, 4, 2, 2, 1}, Case{7, 4, 4, 4, 16, 2},
                          Case{13, 2, 4, 1, 2, 3, 2}, Case{9, 2, 4, 2, 3, 1, 4}, Case{5, 1, 3, 3, 1, 1, 2});
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    INFO("seed " << seed << ", T " << c.rows << " K " << c.top_k << " E " << c.experts << " P " << c.ranks << " r "
                 << c.forward << "/" << c.backward << " ESP " << c.shards);
    World w = make_world(c, seed);
    for (const bool backward : {false, true})
      for (int chunk = 0; chunk < (backward ? c.backward : c.forward); ++chunk) check_chunk(w, c, backward, chunk);
  }
}

TEST_CASE("A plan of other chunks takes over the counts of the same rows", "[dispatch]") {
  const Case c =
      GENERATE(Case{13, 2, 4, 1, 2, 3}, Case{13, 3, 8, 4, 2, 5}, Case{1, 1, 4, 4, 1, 3}, Case{0, 2, 4, 2, 2, 1},
               Case{7, 4, 4, 4, 16, 2}, Case{9, 2, 4, 2, 3, 1, 4}, Case{11, 2, 4, 2, 3, 4, 2});
  World w = make_world(c, 7);
  const Case again{c.rows, c.top_k, c.experts, c.ranks, c.backward, c.backward, c.shards};
  for (int r = 0; r < c.sources(); ++r) {
    DispatchPlan plan({c.rows, c.experts, c.ranks, r % c.ranks, c.shards, r / c.ranks, false, c.backward, c.backward});
    plan.take_counts(w.plans[r]);
    plan.finish();
    w.plans[r] = std::move(plan);
  }
  for (int chunk = 0; chunk < c.backward; ++chunk) check_chunk(w, again, false, chunk);
  const DispatchPlan coarse({12, 2, 1, 0, 1, 0, false, 1, 2});
  DispatchPlan fine({12, 2, 1, 0, 1, 0, false, 3, 3});
  CHECK_THROWS(fine.take_counts(coarse));
}

TEST_CASE("Rows of forward chunks find their place in backward chunks", "[dispatch]") {
  const Case c = GENERATE(Case{13, 2, 4, 2, 3, 5}, Case{24, 3, 8, 4, 1, 4}, Case{24, 1, 8, 4, 6, 2},
                          Case{5, 2, 4, 2, 8, 3}, Case{11, 2, 4, 2, 3, 4, 2});
  World w = make_world(c, 3);
  for (int rank = 0; rank < c.sources(); ++rank)
    for (int b = 0; b < c.backward; ++b) {
      std::vector<Row> wanted = arrivals(w, c, true, b, rank);
      std::sort(wanted.begin(), wanted.end());
      std::set<std::int32_t> filled;
      for (int f = 0; f < c.forward; ++f) {
        std::vector<Row> have = arrivals(w, c, false, f, rank);
        std::sort(have.begin(), have.end());
        const std::vector<std::int32_t> to =
            targets(w.plans[rank].forward_to_backward(f, b), w.plans[rank].chunk(false, f).num_rows);
        REQUIRE(to.size() == have.size());
        for (std::size_t i = 0; i < to.size(); ++i) {
          const bool shared = std::find(wanted.begin(), wanted.end(), have[i]) != wanted.end();
          CHECK(shared == (to[i] >= 0));
          if (to[i] < 0) continue;
          CHECK(wanted[to[i]] == have[i]);
          CHECK(filled.insert(to[i]).second);
        }
      }
      CHECK(filled.size() == wanted.size());
    }
}
