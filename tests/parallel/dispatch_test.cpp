// Every dispatcher over every layout of nodes: rows arrive whole, in gathered order, with the same bits; and come back.
#include "parallel/moe/dispatch.h"

#include "comm/factory.h"
#include "core/error.h"
#include "core/rng.h"
#include "tests/support/catch.h"
#include "tests/support/ranks.h"

using namespace weft;
using namespace weft::parallel;

namespace {

constexpr std::int64_t kTokens = 6, kChoices = 2, kWidth = 3;

struct Ranks {
  int world, ep, esp, ranks_per_node;
};

/// One rank's rows on their way there and back.
struct Trip {
  std::vector<double> sent, gathered, returned;
};

Trip travel(comm::Communicator& world, const Mesh& mesh, DispatcherKind kind, std::uint64_t seed, int experts) {
  const MeshComms comms(world, mesh);
  const auto stream = make_inline_stream();
  DispatchPlan plan({kTokens, experts, mesh.ep_size, mesh.ep_rank(), mesh.esp_size, mesh.esp_rank(),
                     needs_pair_counts(kind, mesh), 2, 1});
  const Rng rng(seed, RngPurpose::kTest, static_cast<std::uint64_t>(mesh.world_rank));
  std::vector<std::int32_t> kept;
  for (std::uint64_t i = 0; i < kTokens * kChoices; ++i)  // rank 1 sends nothing; some entries do not travel
    kept.push_back(mesh.world_rank == 1
                       ? -1
                       : static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(experts) + 1, i)) - 1);
  plan.count_choices(*stream, {kept.data(), kTokens, kChoices});
  const auto send = plan.counts_to_send();
  const auto recv = plan.counts_to_receive();
  const auto from = comm::as_buffer(send.data(), static_cast<std::int64_t>(send.size()));
  const auto to = comm::as_buffer(recv.data(), static_cast<std::int64_t>(recv.size()));
  const std::vector<std::int64_t> each(static_cast<std::size_t>(comms.experts().size()), plan.counts_per_peer());
  if (plan.pair_counts())
    comm::all_gather(comms.experts(), from, to, *stream);
  else
    comms.experts().all_to_all_v(from, each, to, each, *stream);
  plan.fetch_counts(*stream);
  plan.finish();

  const ChunkRows& rows = plan.chunk(false, 1);
  Trip trip;
  for (std::int64_t i = 0; i < rows.num_send * kWidth; ++i)  // integers that name rank and row: sums are exact
    trip.sent.push_back(mesh.world_rank * 1000.0 + static_cast<double>(i));
  const auto walk = [&](const Hops<double>& hops, std::vector<double> at) {
    for (const auto& hop : hops) {
      WEFT_CHECK(hop->rows_in(rows) * kWidth == static_cast<std::int64_t>(at.size()), "a hop takes ",
                 hop->rows_in(rows), " rows");
      std::vector<double> next(static_cast<std::size_t>(hop->rows_out(rows) * kWidth));
      hop->run(*stream, comms, rows, next.data(), at.data(), kWidth);
      at = std::move(next);
    }
    return at;
  };
  trip.gathered = walk(make_dispatch<double>(kind, mesh)->hops(), trip.sent);
  trip.returned = walk(make_combine<double>(kind, mesh)->hops(), trip.gathered);
  return trip;
}

std::vector<Trip> trips(const Ranks& layout, DispatcherKind kind, std::uint64_t seed) {
  return test::results_of_ranks<Trip>(layout.world, [&](comm::Communicator& world) {
    const Mesh mesh = make_mesh(layout.world, world.rank(), {layout.ep, layout.esp, 1, 1, layout.ranks_per_node});
    return travel(world, mesh, kind, seed, 2 * layout.ep);
  });
}

}  // namespace

TEST_CASE("Dispatch and combine: rows arrive as the flat dispatcher has them, and come home", "[dispatch]") {
  const Ranks layout =
      GENERATE(Ranks{1, 1, 1, 1}, Ranks{4, 4, 1, 2}, Ranks{8, 8, 1, 2}, Ranks{8, 8, 1, 4}, Ranks{8, 4, 2, 4},
               Ranks{8, 4, 1, 2}, Ranks{4, 4, 1, 4}, Ranks{4, 4, 1, 1}, Ranks{8, 2, 4, 8}, Ranks{6, 3, 2, 2},
               Ranks{4, 1, 4, 2}, Ranks{8, 4, 2, 8}, Ranks{6, 6, 1, 3});
  INFO("world " << layout.world << ", EP " << layout.ep << ", ESP " << layout.esp << ", " << layout.ranks_per_node
                << " ranks a node");
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const std::vector<Trip> flat = trips(layout, DispatcherKind::kAllToAll, seed);
    for (const Trip& trip : flat) {
      REQUIRE(trip.returned.size() == trip.sent.size());
      for (std::size_t i = 0; i < trip.sent.size(); ++i)  // every ESP peer gives back what it got: a sum over them
        CHECK(trip.returned[i] == layout.esp * trip.sent[i]);
    }
    for (const DispatcherKind kind : {DispatcherKind::kHierarchical1d, DispatcherKind::kHierarchical2d}) {
      const std::vector<Trip> other = trips(layout, kind, seed);
      for (std::size_t r = 0; r < flat.size(); ++r) {
        INFO("rank " << r << ", dispatcher " << static_cast<int>(kind));
        CHECK(other[r].gathered == flat[r].gathered);
        CHECK(other[r].returned == flat[r].returned);
      }
    }
  }
}

TEST_CASE("Hops name what they occupy", "[dispatch]") {
  using scheduler::Resource;
  using scheduler::ResourceSet;
  const auto links = [](DispatcherKind kind, int ep, int esp, int per_node) {
    std::vector<ResourceSet> out;
    for (const auto& hop : make_dispatch<float>(kind, make_mesh(ep * esp, 0, {ep, esp, 1, 1, per_node}))->hops())
      out.push_back(hop->info().resources);
    return out;
  };
  const ResourceSet intra{Resource::kIntra}, inter{Resource::kInter}, both{Resource::kIntra, Resource::kInter};
  CHECK(links(DispatcherKind::kAllToAll, 8, 1, 8) == std::vector{intra});
  CHECK(links(DispatcherKind::kAllToAll, 8, 1, 4) == std::vector{both});
  CHECK(links(DispatcherKind::kAllToAll, 2, 4, 4) == std::vector{inter, intra});  // FSMoE's layout
  CHECK(links(DispatcherKind::kHierarchical1d, 8, 1, 4) == std::vector{intra, inter, intra});
  CHECK(links(DispatcherKind::kHierarchical2d, 8, 1, 4) == std::vector{intra, inter});
  CHECK(links(DispatcherKind::kHierarchical2d, 4, 2, 4) == std::vector{intra, inter, intra});
  CHECK(links(DispatcherKind::kHierarchical2d, 8, 1, 8) == std::vector{intra});  // one node: no hierarchy
}

TEST_CASE("A hierarchical dispatcher refuses a group that lies unevenly on nodes", "[dispatch]") {
  for (const DispatcherKind kind : {DispatcherKind::kHierarchical1d, DispatcherKind::kHierarchical2d})
    CHECK_THROWS_WITH(make_dispatch<float>(kind, make_mesh(6, 0, {6, 1, 1, 1, 4})),
                      Catch::Matchers::Contains("parallel.dispatcher") && Catch::Matchers::Contains("unevenly"));
  CHECK(make_dispatch<float>(DispatcherKind::kAllToAll, make_mesh(6, 0, {6, 1, 1, 1, 4}))->hops().size() == 1);
}
