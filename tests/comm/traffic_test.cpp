#include "comm/traffic.h"

#include <numeric>
#include <vector>

#include "comm/cost.h"
#include "tests/support/ranks.h"

namespace weft::comm {
namespace {

using test::check_on_ranks;
using test::Findings;

std::int64_t total(const Traffic& traffic) {
  const std::vector<std::int64_t> bytes = traffic.sent_bytes();
  return std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0});
}

TEST_CASE("A rank counts what each collective has to move", "[traffic]") {
  for (const int ranks : {1, 2, 3, 4}) {
    check_on_ranks(ranks, [](Communicator& world, Findings& findings) {
      const int num_ranks = world.size(), me = world.rank();
      const auto stream = make_inline_stream();
      const std::int64_t block = 6, whole = block * num_ranks;  // elements of 4 bytes
      std::vector<float> a(static_cast<std::size_t>(whole)), b(a.size());
      std::int64_t before = 0;
      const auto sent = [&](Collective collective, double expected) {
        const std::int64_t now = total(world.traffic());
        findings.expect(static_cast<double>(now - before) == expected, to_string(collective), ": ", now - before);
        before = now;
      };
      world.all_reduce(as_buffer(a.data(), whole), as_buffer(b.data(), whole), ReduceOp::kSum, *stream);
      sent(Collective::kAllReduce, wire_bytes(Collective::kAllReduce, num_ranks, 4.0 * whole));
      all_gather(world, as_buffer(a.data(), block), as_buffer(b.data(), whole), *stream);
      sent(Collective::kAllGather, wire_bytes(Collective::kAllGather, num_ranks, 4.0 * whole));
      reduce_scatter(world, as_buffer(a.data(), whole), as_buffer(b.data(), block), ReduceOp::kSum, *stream);
      sent(Collective::kReduceScatter, wire_bytes(Collective::kReduceScatter, num_ranks, 4.0 * whole));
      const std::vector<std::int64_t> counts(static_cast<std::size_t>(num_ranks), block);
      world.all_to_all_v(as_buffer(a.data(), whole), counts, as_buffer(b.data(), whole), counts, *stream);
      sent(Collective::kAllToAll, wire_bytes(Collective::kAllToAll, num_ranks, 4.0 * whole));
      world.broadcast(as_buffer(a.data(), whole), 0, *stream);
      sent(Collective::kBroadcast, me == 0 ? 4.0 * whole * (num_ranks - 1) : 0.0);
      const int next = (me + 1) % num_ranks, previous = (me + num_ranks - 1) % num_ranks;
      const SendOp send{as_buffer(a.data(), block), next};
      const RecvOp receive{as_buffer(b.data(), block), previous};
      world.send_recv({&send, 1}, {&receive, 1}, *stream);
      sent(Collective::kSendRecv, num_ranks > 1 ? 4.0 * block : 0.0);
    });
  }
}

TEST_CASE("Uneven blocks are counted at the rank they go to, in groups too", "[traffic]") {
  check_on_ranks(4, [](Communicator& world, Findings& findings) {
    const auto stream = make_inline_stream();
    const auto group = world.split(world.rank() % 2, -world.rank());  // {2, 0} and {3, 1}
    const int me = world.rank(), peer = (me + 2) % 4;
    const std::vector<std::int64_t> before = world.traffic().sent_bytes();
    std::vector<double> data(16), received(16);
    std::vector<std::int64_t> send(2), recv(2);
    const auto other = static_cast<std::size_t>(1 - group->rank()), self = static_cast<std::size_t>(group->rank());
    send[self] = recv[self] = 5;
    send[other] = me + 1;
    recv[other] = peer + 1;
    group->all_to_all_v(as_buffer(data.data(), send[0] + send[1]), send, as_buffer(received.data(), recv[0] + recv[1]),
                        recv, *stream);
    const std::vector<std::int64_t> after = world.traffic().sent_bytes();
    for (int r = 0; r < 4; ++r) {
      const std::int64_t bytes = after[static_cast<std::size_t>(r)] - before[static_cast<std::size_t>(r)];
      findings.expect(bytes == (r == peer ? 8 * (me + 1) : 0), "to rank ", r, ": ", bytes);
    }
    findings.expect(&group->traffic() == &world.traffic(), "a group counts for itself");
  });
}

TEST_CASE("The matrix has every rank's traffic, and not its own", "[traffic]") {
  check_on_ranks(3, [](Communicator& world, Findings& findings) {
    const auto stream = make_inline_stream();
    std::vector<std::int32_t> data(9), received(9);
    const std::vector<std::int64_t> send(3, world.rank() + 1), recv{1, 2, 3};
    world.all_to_all_v(as_buffer(data.data(), 3 * (world.rank() + 1)), send, as_buffer(received.data(), 6), recv,
                       *stream);
    const TrafficMatrix matrix = gather_traffic(world, *stream);
    for (int src = 0; src < 3; ++src)
      for (int dst = 0; dst < 3; ++dst) {
        const std::int64_t bytes = matrix.sent_bytes[static_cast<std::size_t>(3 * src + dst)];
        findings.expect(bytes == (src == dst ? 0 : 4 * (src + 1)), src, " to ", dst, ": ", bytes);
      }
    findings.expect(matrix.by_collective[static_cast<std::size_t>(Collective::kAllToAll)] == 2 * 4 * (1 + 2 + 3),
                    "sum");
    findings.expect(matrix.by_collective[static_cast<std::size_t>(Collective::kAllGather)] == 0, "counts itself");
  });
}

}  // namespace
}  // namespace weft::comm
