#include "comm/topology.h"

#include "tests/support/catch.h"
#include "tests/support/environment.h"
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

}  // namespace
}  // namespace weft::test
