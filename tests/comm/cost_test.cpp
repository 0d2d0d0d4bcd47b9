#include "comm/cost.h"

#include <array>

#include "core/error.h"
#include "tests/support/catch.h"

namespace weft::comm {
namespace {

TEST_CASE("wire bytes are the bytes that the algorithms send", "[comm]") {
  for (const int num_ranks : {2, 3, 4, 7, 8, 1024}) {
    INFO(num_ranks << " ranks");
    const std::int64_t block = 24, n = block * num_ranks;  // counted message by message
    std::int64_t sent = 0;
    for (int peer = 1; peer < num_ranks; ++peer) sent += block;
    CHECK(wire_bytes(Collective::kAllToAll, num_ranks, n) == Approx(sent));
    CHECK(wire_bytes(Collective::kAllGather, num_ranks, n) == Approx(sent));
    CHECK(wire_bytes(Collective::kReduceScatter, num_ranks, n) == Approx(sent));
    CHECK(wire_bytes(Collective::kAllReduce, num_ranks, n) == Approx(2 * sent));
    CHECK(wire_bytes(Collective::kBroadcast, num_ranks, n) == n);
    CHECK(wire_bytes(Collective::kSendRecv, num_ranks, n) == n);
  }
}

TEST_CASE("a group of one sends nothing", "[comm]") {
  for (const auto c : {Collective::kAllReduce, Collective::kAllGather, Collective::kReduceScatter,
                       Collective::kAllToAll, Collective::kBroadcast, Collective::kSendRecv}) {
    INFO(to_string(c));
    CHECK(wire_bytes(c, 1, 1e9) == 0.0);
    CHECK(rounds(c, 1) == 0);
  }
}

TEST_CASE("uneven all-to-all counts all blocks but the rank's own", "[comm]") {
  const std::array<std::int64_t, 4> counts{5, 0, 7, 100};
  CHECK(wire_bytes_sent(counts, 3, 8) == 12 * 8);
  CHECK(wire_bytes_sent(counts, 1, 8) == 112 * 8);
  CHECK_THROWS_AS(wire_bytes_sent(counts, 4, 8), Error);
}

TEST_CASE("rounds of dependent messages", "[comm]") {
  CHECK(rounds(Collective::kAllReduce, 8) == 2);
  CHECK(rounds(Collective::kAllToAll, 8) == 1);
  CHECK(rounds(Collective::kBroadcast, 2) == 1);
  CHECK(rounds(Collective::kBroadcast, 5) == 3);
  CHECK(rounds(Collective::kBroadcast, 8) == 3);
  CHECK(rounds(Collective::kBroadcast, 9) == 4);
}

TEST_CASE("cost formulas refuse nonsense", "[comm]") {
  CHECK_THROWS_AS(wire_bytes(Collective::kAllReduce, 0, 1.0), Error);
  CHECK_THROWS_AS(wire_bytes(Collective::kAllReduce, 2, -1.0), Error);
  CHECK_THROWS_AS(rounds(Collective::kAllReduce, 0), Error);
}

}  // namespace
}  // namespace weft::comm
