#include "comm/topology.h"

#include "tests/support/catch.h"
#include "tests/support/environment.h"
#include "tests/support/errors.h"
#include "tests/support/ranks.h"

namespace weft::test {
namespace {

using comm::Topology;

std::vector<Topology> topologies(int num_ranks) {
  return results_of_ranks<Topology>(num_ranks, [](comm::Communicator& world) {
    const auto stream = make_inline_stream();
    return comm::find_topology(world, *stream);
  });
}

TEST_CASE("threads of one process share a node", "[comm]") {
  const ScopedVariable none("WEFT_RANKS_PER_NODE", nullptr);
  const auto found = topologies(3);
  for (int rank = 0; rank < 3; ++rank)
    CHECK(found[static_cast<std::size_t>(rank)] == Topology{{0, 0, 0}, 1, 0, rank, 3});
}

TEST_CASE("WEFT_RANKS_PER_NODE lays ranks on nodes", "[comm]") {
  const ScopedVariable two("WEFT_RANKS_PER_NODE", "2");
  const auto found = topologies(5);
  const std::vector<int> nodes{0, 0, 1, 1, 2};
  CHECK(found[0] == Topology{nodes, 3, 0, 0, 2});
  CHECK(found[3] == Topology{nodes, 3, 1, 1, 2});
  CHECK(found[4] == Topology{nodes, 3, 2, 0, 1});
  CHECK(found[0].same_node(2, 3));
  CHECK_FALSE(found[0].same_node(1, 2));
}

TEST_CASE("a wrong WEFT_RANKS_PER_NODE is an error on every rank", "[comm]") {
  for (const char* value : {"0", "-1", "two", "2x", "99999999999999999999"}) {
    const ScopedVariable wrong("WEFT_RANKS_PER_NODE", value);
    check_on_ranks(3, [&](comm::Communicator& world, Findings& findings) {
      const auto stream = make_inline_stream();
      findings.expect_error(ErrorCode::kInvalidArgument, str("WEFT_RANKS_PER_NODE=", value),
                            [&] { (void)comm::find_topology(world, *stream); });
    });
  }
}

TEST_CASE("nodes are numbered by their lowest rank", "[comm]") {
  const Topology t = comm::make_topology({900, 7, 900, 3, 7, 7}, 5);
  CHECK(t == Topology{{0, 1, 0, 2, 1, 1}, 3, 1, 2, 3});
  CHECK_THROWS_AS(comm::make_topology({1, 2}, 2), Error);
}

TEST_CASE("ranks that fill nodes evenly and in order have a number a node, others an error that says how they lie",
          "[comm]") {
  const auto of = [](const std::vector<std::uint64_t>& nodes, int rank) {
    return comm::ranks_of_each_node(comm::make_topology(nodes, rank));
  };
  for (const int rank : {0, 2, 3}) {
    CHECK(of({7, 7, 3, 3}, rank) == 2);
    CHECK(of({7, 7, 7, 7}, rank) == 4);
    CHECK(of({4, 3, 2, 1}, rank) == 1);
    const auto refuses = [&](const std::vector<std::uint64_t>& nodes, const std::string& text) {
      check_error(ErrorCode::kInvalidArgument, text, [&] { static_cast<void>(of(nodes, rank)); });
    };
    refuses({7, 3, 7, 3}, "rank 1 is on node 1, node 0 has 2 ranks");  // dealt out in turn
    refuses({7, 7, 7, 3}, "rank 0 is on node 0, node 0 has 3 ranks");  // the last is not full
    refuses({7, 3, 3, 3}, "rank 2 is on node 1, node 0 has 1 ranks");
    refuses({7, 7, 3, 3, 3}, "rank 0 is on node 0, node 0 has 2 ranks");
  }
}

}  // namespace
}  // namespace weft::test
