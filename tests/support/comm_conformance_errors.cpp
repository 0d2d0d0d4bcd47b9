// tests/support/comm_conformance_errors.cpp - the part of the suite about wrong arguments, and about the free helpers.
#include <array>
#include <cstdint>
#include <vector>

#include "tests/support/comm_conformance.h"

namespace weft::test {
namespace {

using comm::as_buffer;
using comm::Buffer;
using comm::Communicator;
using comm::ConstBuffer;
using comm::RecvOp;
using comm::ReduceOp;
using comm::SendOp;
using Counts = std::vector<std::int64_t>;

template <class T>
ConstBuffer buffer_of(const std::vector<T>& v) {
  return as_buffer(v.data(), static_cast<std::int64_t>(v.size()));
}
template <class T>
Buffer buffer_of(std::vector<T>& v) {
  return as_buffer(v.data(), static_cast<std::int64_t>(v.size()));
}

}  // namespace

/// all_gather, reduce_scatter, barrier.
void conformance_helpers(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  constexpr std::int64_t kN = 37;
  const int num_ranks = comm.size();
  const auto share_of = [&](int rank) {
    std::vector<float> x;
    for (int i = 0; i < kN; ++i) x.push_back(static_cast<float>((static_cast<int>(seed % 7) + rank * 5 + i * 3) % 41));
    return x;
  };
  const auto mine = share_of(comm.rank());
  std::vector<float> all(static_cast<std::size_t>(kN * num_ranks)), want;
  comm::all_gather(comm, buffer_of(mine), buffer_of(all), *stream);
  for (int r = 0; r < num_ranks; ++r)
    for (const float x : share_of(r)) want.push_back(x);
  findings.expect(all == want, "all_gather");
  std::vector<float> share(static_cast<std::size_t>(kN));
  comm::reduce_scatter(comm, buffer_of(all), buffer_of(share), ReduceOp::kSum, *stream);
  auto scaled = mine;
  for (float& x : scaled) x *= static_cast<float>(num_ranks);  // all ranks hold the same
  findings.expect(share == scaled, "reduce_scatter");
  comm::barrier(comm, *stream);
}

/// Every check of the collectives that this rank can make by itself, and that the group still works after it.
void conformance_argument_errors(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  const auto num_ranks = static_cast<std::size_t>(comm.size());
  const auto me = static_cast<std::size_t>(comm.rank());
  std::vector<float> a(num_ranks + 4), b(2 * num_ranks + 4);
  std::vector<double> d(num_ranks + 4);
  std::vector<std::uint8_t> u(4);
  const Counts ones(num_ranks, 1), short_counts(num_ranks - 1, 1);
  Counts negative = ones;
  negative[0] = -1;
  const auto n = static_cast<std::int64_t>(num_ranks);
  const auto bad = [&](const std::string& text, const auto& call) {
    findings.expect_error(ErrorCode::kInvalidArgument, text, call);
  };
  const auto sum = ReduceOp::kSum;
  Stream& s = *stream;
  bad("send is F32, recv is F64", [&] { comm.all_reduce(buffer_of(a), buffer_of(d), sum, s); });
  bad("cannot reduce U8", [&] { comm.all_reduce(buffer_of(u), buffer_of(u), sum, s); });
  bad("send has 1 elements, recv 2", [&] { comm.all_reduce(as_buffer(a.data(), 1), as_buffer(b.data(), 2), sum, s); });
  bad("overlap", [&] { comm.all_reduce(as_buffer(a.data(), 2), as_buffer(a.data() + 1, 2), sum, s); });
  bad("count of -1", [&] { comm.all_reduce(as_buffer(a.data(), -1), as_buffer(b.data(), -1), sum, s); });
  bad("null", [&] { comm.broadcast({nullptr, 1, DType::kF32}, 0, s); });
  bad("root", [&] { comm.broadcast(buffer_of(a), comm.size(), s); });
  bad("root", [&] { comm.broadcast(buffer_of(a), -1, s); });
  bad("entries for", [&] { comm.all_gather_v(as_buffer(a.data(), 1), as_buffer(b.data(), n), short_counts, s); });
  bad("counts[0] = -1", [&] { comm.all_gather_v(as_buffer(a.data(), 1), as_buffer(b.data(), n), negative, s); });
  bad("counts sum to", [&] { comm.all_gather_v(as_buffer(a.data(), 1), as_buffer(b.data(), n + 1), ones, s); });
  bad("counts sum to more", [&] { comm.all_gather_v(as_buffer(a.data(), 1), as_buffer(b.data(), n - 1), ones, s); });
  bad("send has 2", [&] { comm.all_gather_v(as_buffer(a.data(), 2), as_buffer(b.data(), n), ones, s); });
  bad("not this rank's share", [&] {  // one element further than its share
    const Counts twos(num_ranks, 2);
    comm.all_gather_v(as_buffer(b.data() + 2 * me + 1, 2), as_buffer(b.data(), 2 * n), twos, s);
  });
  bad("recv has 2", [&] { comm.reduce_scatter_v(as_buffer(a.data(), n), as_buffer(b.data(), 2), ones, sum, s); });
  bad("overlap", [&] { comm.reduce_scatter_v(as_buffer(a.data(), n), as_buffer(a.data(), 1), ones, sum, s); });
  bad("send_counts", [&] { comm.all_to_all_v(as_buffer(a.data(), n), short_counts, as_buffer(b.data(), n), ones, s); });
  bad("recv_counts", [&] { comm.all_to_all_v(as_buffer(a.data(), n), ones, as_buffer(b.data(), n), negative, s); });
  bad("overlap", [&] { comm.all_to_all_v(as_buffer(a.data(), n), ones, as_buffer(a.data(), n), ones, s); });
  Counts more = ones;
  more[me] = 2;
  bad("sends itself", [&] { comm.all_to_all_v(as_buffer(a.data(), n + 1), more, as_buffer(b.data(), n), ones, s); });
  conformance_helpers(comm, seed, findings);
}

void conformance_message_errors(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  Stream& s = *stream;
  std::vector<float> a(4), b(4);
  const auto bad = [&](const std::string& text, const auto& call) {
    findings.expect_error(ErrorCode::kInvalidArgument, text, call);
  };
  const std::array<SendOp, 1> to_nobody{{{as_buffer(a.data(), 1), comm.size()}}};
  const std::array<SendOp, 1> to_self{{{as_buffer(a.data(), 1), comm.rank()}}};
  const std::array<RecvOp, 1> from_nobody{{{as_buffer(b.data(), 1), -1}}};
  const std::array<RecvOp, 1> longer{{{as_buffer(b.data(), 2), comm.rank()}}};
  const std::array<RecvOp, 1> over_send{{{as_buffer(a.data(), 1), comm.rank()}}};
  bad("dst_rank", [&] { comm.send_recv(to_nobody, {}, s); });
  bad("src_rank", [&] { comm.send_recv({}, from_nobody, s); });
  bad("messages to itself", [&] { comm.send_recv(to_self, {}, s); });
  bad("to itself: 1 F32 sent, 2 F32 expected", [&] { comm.send_recv(to_self, longer, s); });
  bad("overlap", [&] { comm.send_recv(to_self, over_send, s); });
  const std::array<SendOp, 2> two{{{as_buffer(a.data(), 1), comm.rank()}, {as_buffer(a.data(), 1), comm.rank()}}};
  const std::array<RecvOp, 2> same{{{as_buffer(b.data(), 1), comm.rank()}, {as_buffer(b.data(), 1), comm.rank()}}};
  bad("receives 0 and 1 overlap", [&] { comm.send_recv(two, same, s); });
  conformance_helpers(comm, seed, findings);
}

}  // namespace weft::test
