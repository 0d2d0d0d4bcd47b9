#include "tests/support/comm_conformance.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "core/rng.h"

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

constexpr std::array<std::int64_t, 6> kSizes{0, 1, 2, 13, 1009, 70001};
constexpr std::array<ReduceOp, 3> kOps{ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kMin};

/// Element i of what `rank` brings: an integer in [-50, 50].
template <class T>
T value(std::uint64_t seed, int rank, std::int64_t i) {
  const auto x = static_cast<std::uint64_t>(i) * 2654435761U + static_cast<std::uint64_t>(rank) * 40503U + seed * 97U;
  if constexpr (std::is_same_v<T, std::uint8_t>)
    return static_cast<T>((x ^ (x >> 7)) % 251);
  else
    return static_cast<T>(static_cast<int>((x ^ (x >> 7)) % 101) - 50);
}

template <class T>
std::vector<T> values(std::uint64_t seed, int rank, std::int64_t count) {
  std::vector<T> result(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) result[static_cast<std::size_t>(i)] = value<T>(seed, rank, i);
  return result;
}

template <class T>
T combine(ReduceOp op, T a, T b) {
  return op == ReduceOp::kSum ? a + b : op == ReduceOp::kMax ? std::max(a, b) : std::min(a, b);
}

/// Rounded once, where T is narrower than what it is combined in.
template <class T>
std::vector<T> reduced(std::uint64_t seed, int num_ranks, std::int64_t count, ReduceOp op) {
  std::vector<T> result;
  for (std::int64_t i = 0; i < count; ++i) {
    Wide<T> x = value<T>(seed, 0, i);
    for (int r = 1; r < num_ranks; ++r) x = combine<Wide<T>>(op, x, value<T>(seed, r, i));
    result.push_back(static_cast<T>(x));
  }
  return result;
}

/// Uneven shares around n / P: some ranks have nothing.
Counts uneven_counts(std::uint64_t seed, int num_ranks, std::int64_t n) {
  const Rng rng(seed, RngPurpose::kTest, static_cast<std::uint64_t>(n));
  Counts counts(static_cast<std::size_t>(num_ranks));
  for (std::size_t r = 0; r < counts.size(); ++r) {
    const auto bound = static_cast<std::uint64_t>(2 * n / num_ranks + 2);
    counts[r] = rng.below(3, 1000 + r) == 0 ? 0 : static_cast<std::int64_t>(rng.below(bound, r));
  }
  return counts;
}

std::int64_t total(std::span<const std::int64_t> counts) {
  return std::accumulate(counts.begin(), counts.end(), std::int64_t{0});
}

template <class T>
ConstBuffer buffer_of(const std::vector<T>& v) {
  return as_buffer(v.data(), static_cast<std::int64_t>(v.size()));
}
template <class T>
Buffer buffer_of(std::vector<T>& v) {
  return as_buffer(v.data(), static_cast<std::int64_t>(v.size()));
}
template <class T>
void expect_same(Findings& findings, const std::vector<T>& got, const std::vector<T>& want, const std::string& what) {
  findings.expect_equal(std::span<const T>(got), std::span<const T>(want), what);
}

template <class T>
void all_reduce_of(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  for (const std::int64_t n : kSizes) {
    for (const ReduceOp op : kOps) {
      const std::string what = str("all_reduce ", to_string(dtype_of<T>), " n=", n, " op=", static_cast<int>(op));
      const auto want = reduced<T>(seed, comm.size(), n, op);
      const auto send = values<T>(seed, comm.rank(), n);
      std::vector<T> recv(send.size(), T(77)), in_place = send;
      comm.all_reduce(buffer_of(send), buffer_of(recv), op, *stream);
      comm.all_reduce(buffer_of(in_place), buffer_of(in_place), op, *stream);
      expect_same(findings, recv, want, what);
      expect_same(findings, in_place, want, what + " in place");
      expect_same(findings, send, values<T>(seed, comm.rank(), n), what + " leaves send alone");
    }
  }
}

void all_reduce(Communicator& comm, std::uint64_t seed, Findings& findings) {
  all_reduce_of<float>(comm, seed, findings);
  all_reduce_of<double>(comm, seed, findings);
  all_reduce_of<BF16>(comm, seed, findings);
  all_reduce_of<std::int32_t>(comm, seed, findings);
  all_reduce_of<std::int64_t>(comm, seed, findings);
}

/// Values whose sum depends on the order: the result is the sum in rank order, to the last bit.
void reductions_in_rank_order(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  const Rng rng(seed, RngPurpose::kTest, 5);
  for (const std::int64_t n : kSizes) {
    const auto x = [&](int r, std::int64_t i) {
      const double scale = std::pow(10.0, static_cast<double>((r * 7 + i) % 9));
      return static_cast<float>(rng.normal(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(r)) * scale);
    };
    std::vector<float> send, want;
    for (std::int64_t i = 0; i < n; ++i) {
      send.push_back(x(comm.rank(), i));
      float sum = x(0, i);
      for (int r = 1; r < comm.size(); ++r) sum += x(r, i);
      want.push_back(sum);
    }
    std::vector<float> recv(send.size());
    comm.all_reduce(buffer_of(send), buffer_of(recv), ReduceOp::kSum, *stream);
    expect_same(findings, recv, want, str("all_reduce in rank order, n=", n));
    Counts counts(static_cast<std::size_t>(comm.size()), n / comm.size());
    counts.back() += n % comm.size();
    const std::int64_t first = comm.rank() * (n / comm.size()), mine = counts[static_cast<std::size_t>(comm.rank())];
    std::vector<float> share(static_cast<std::size_t>(mine));
    comm.reduce_scatter_v(buffer_of(send), buffer_of(share), counts, ReduceOp::kSum, *stream);
    expect_same(findings, share, {want.begin() + first, want.begin() + first + mine},
                str("reduce_scatter_v in rank order, n=", n));
  }
}

void nan_survives_max_and_min(Communicator& comm, std::uint64_t, Findings& findings) {
  const auto stream = make_inline_stream();
  for (int culprit = 0; culprit < comm.size(); ++culprit) {
    for (const ReduceOp op : {ReduceOp::kMax, ReduceOp::kMin}) {
      double x = comm.rank() == culprit ? std::numeric_limits<double>::quiet_NaN() : 1.0;
      comm.all_reduce(as_buffer(&x, 1), as_buffer(&x, 1), op, *stream);
      findings.expect(std::isnan(x), "the NaN of rank ", culprit, " became ", x);
    }
  }
}

template <class T>
void all_gather_of(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  for (const std::int64_t n : kSizes) {
    const Counts counts = uneven_counts(seed, comm.size(), n);
    const auto send = values<T>(seed, comm.rank(), counts[static_cast<std::size_t>(comm.rank())]);
    std::vector<T> want, recv(static_cast<std::size_t>(total(counts)), T(77)), in_place = recv;
    T* share = in_place.data();
    for (int r = 0; r < comm.size(); ++r) {
      const auto part = values<T>(seed, r, counts[static_cast<std::size_t>(r)]);
      if (r == comm.rank()) share = in_place.data() + want.size();
      want.insert(want.end(), part.begin(), part.end());
    }
    const std::string what = str("all_gather_v ", to_string(dtype_of<T>), " n=", n);
    comm.all_gather_v(buffer_of(send), buffer_of(recv), counts, *stream);
    expect_same(findings, recv, want, what);
    std::copy(send.begin(), send.end(), share);
    comm.all_gather_v({share, buffer_of(send).count, dtype_of<T>}, buffer_of(in_place), counts, *stream);
    expect_same(findings, in_place, want, what + " in place");
  }
}

void all_gather_v(Communicator& comm, std::uint64_t seed, Findings& findings) {
  all_gather_of<float>(comm, seed, findings);
  all_gather_of<std::int64_t>(comm, seed, findings);
  all_gather_of<std::uint8_t>(comm, seed, findings);
}

template <class T>
void reduce_scatter_of(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  for (const std::int64_t n : kSizes) {
    for (const ReduceOp op : kOps) {
      const Counts counts = uneven_counts(seed, comm.size(), n);
      const auto send = values<T>(seed, comm.rank(), total(counts));
      const auto all = reduced<T>(seed, comm.size(), total(counts), op);
      const auto first = total(std::span(counts).first(static_cast<std::size_t>(comm.rank())));
      const auto mine = counts[static_cast<std::size_t>(comm.rank())];
      std::vector<T> recv(static_cast<std::size_t>(mine), T(77));
      comm.reduce_scatter_v(buffer_of(send), buffer_of(recv), counts, op, *stream);
      expect_same(findings, recv, {all.begin() + first, all.begin() + first + mine},
                  str("reduce_scatter_v ", to_string(dtype_of<T>), " n=", n, " op=", static_cast<int>(op)));
    }
  }
}

void reduce_scatter_v(Communicator& comm, std::uint64_t seed, Findings& findings) {
  reduce_scatter_of<float>(comm, seed, findings);
  reduce_scatter_of<double>(comm, seed, findings);
  reduce_scatter_of<BF16>(comm, seed, findings);
  reduce_scatter_of<std::int32_t>(comm, seed, findings);
  reduce_scatter_of<std::int64_t>(comm, seed, findings);
}

/// Counts from rank `from` to rank `to`. shape 0: uneven; 1: all to rank 0; 2: rank 0 sends nothing; 3: to itself only.
std::int64_t message_count(std::uint64_t seed, int shape, std::int64_t n, int from, int to) {
  if (shape == 1 && to != 0) return 0;
  if (shape == 2 && from == 0) return 0;
  if (shape == 3) return from == to ? n : 0;
  const Rng rng(seed, RngPurpose::kTest, static_cast<std::uint64_t>(n), static_cast<std::uint64_t>(shape));
  return static_cast<std::int64_t>(
      rng.below(static_cast<std::uint64_t>(n + 1), static_cast<std::uint64_t>(from * 64 + to)));
}

template <class T>
void all_to_all_of(Communicator& comm, std::uint64_t seed, std::int64_t n, int shape, Findings& findings) {
  const auto stream = make_inline_stream();
  const int me = comm.rank();
  Counts send_counts, recv_counts;
  std::vector<T> send, want;
  const auto message = [&](int from, int to) {
    return values<T>(seed + static_cast<std::uint64_t>(to) * 31, from, message_count(seed, shape, n, from, to));
  };
  for (int r = 0; r < comm.size(); ++r) {
    const auto out = message(me, r), in = message(r, me);
    send_counts.push_back(static_cast<std::int64_t>(out.size()));
    recv_counts.push_back(static_cast<std::int64_t>(in.size()));
    send.insert(send.end(), out.begin(), out.end());
    want.insert(want.end(), in.begin(), in.end());
  }
  std::vector<T> recv(want.size(), T(77));
  comm.all_to_all_v(buffer_of(send), send_counts, buffer_of(recv), recv_counts, *stream);
  expect_same(findings, recv, want, str("all_to_all_v ", to_string(dtype_of<T>), " n=", n, " shape=", shape));
}

void all_to_all_v(Communicator& comm, std::uint64_t seed, Findings& findings) {
  for (const std::int64_t n : {0, 1, 13, 1009, 20011}) {
    for (int shape = 0; shape < 4; ++shape) {
      all_to_all_of<float>(comm, seed, n, shape, findings);
      all_to_all_of<double>(comm, seed, n, shape, findings);
      all_to_all_of<std::int32_t>(comm, seed, n, shape, findings);
      all_to_all_of<std::uint8_t>(comm, seed, n, shape, findings);
    }
  }
}

void broadcast(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  for (int root = 0; root < comm.size(); ++root) {
    for (const std::int64_t n : kSizes) {
      const auto want = values<double>(seed, root, n);
      auto buffer = values<double>(seed, comm.rank(), n);
      comm.broadcast(buffer_of(buffer), root, *stream);
      expect_same(findings, buffer, want, str("broadcast from ", root, " n=", n));
    }
  }
}

/// Every ordered pair, a rank and itself included, exchanges 0 to 2 messages of various sizes in one group.
void send_recv(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  const Rng rng(seed, RngPurpose::kTest, 9);
  const auto id = [&](int from, int to, int k) { return static_cast<std::uint64_t>((from * 64 + to) * 4 + k); };
  const auto num_messages = [&](int from, int to) { return static_cast<int>(rng.below(3, id(from, to, 3))); };
  const auto message = [&](int from, int to, int k) {
    return values<float>(id(from, to, k), from, kSizes[rng.below(kSizes.size(), id(from, to, k))]);
  };
  std::vector<std::vector<float>> out, want, in;
  std::vector<int> dst, src;
  for (int peer = comm.size() - 1; peer >= 0; --peer) {
    for (int k = 0; k < num_messages(comm.rank(), peer); ++k)
      out.push_back(message(comm.rank(), peer, k)), dst.push_back(peer);
    for (int k = 0; k < num_messages(peer, comm.rank()); ++k)
      want.push_back(message(peer, comm.rank(), k)), src.push_back(peer);
  }
  for (const auto& m : want) in.emplace_back(m.size(), 77.0F);
  std::vector<SendOp> sends;
  std::vector<RecvOp> recvs;
  for (std::size_t i = 0; i < out.size(); ++i) sends.push_back({buffer_of(out[i]), dst[i]});
  for (std::size_t i = 0; i < in.size(); ++i) recvs.push_back({buffer_of(in[i]), src[i]});
  comm.send_recv(sends, recvs, *stream);
  findings.expect(true, "send_recv returned");
  for (std::size_t i = 0; i < in.size(); ++i) expect_same(findings, in[i], want[i], str("send_recv message ", i));
}

void split(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const auto stream = make_inline_stream();
  const int parity = comm.rank() % 2, expected_size = (comm.size() + 1 - parity) / 2;
  const auto half = comm.split(parity, -comm.rank(), "half");  // in reverse order
  findings.expect(half->size() == expected_size, "split: size ", half->size(), ", expected ", expected_size);
  findings.expect(half->rank() == expected_size - 1 - comm.rank() / 2, "split: rank ", half->rank());
  findings.expect(half->name() == str(comm.name(), ".half[", parity, "]"), "split: name ", half->name());
  findings.expect(half->timeout() == comm.timeout(), "split: a timeout of ", half->timeout().count(), " ms");
  std::int64_t sum = comm.rank();
  half->all_reduce(as_buffer(&sum, 1), as_buffer(&sum, 1), ReduceOp::kSum, *stream);
  std::int64_t want = 0;
  for (int r = parity; r < comm.size(); r += 2) want += r;
  findings.expect(sum == want, "split: sum over the half ", sum, ", expected ", want);

  const auto one_out = comm.split(comm.rank() == 0 ? -1 : 3, 0);
  findings.expect((one_out == nullptr) == (comm.rank() == 0), "split: color -1 gives no group");
  if (one_out) all_reduce_of<float>(*one_out, seed, findings);
  const auto nested = half->split(0, half->rank());  // a group of a group, while its parent lives
  findings.expect(nested->rank() == half->rank() && nested->size() == half->size(), "split of a split");
  all_to_all_of<float>(*nested, seed, 13, 0, findings);
  comm::barrier(comm, *stream);
}

/// Delays that differ from rank to rank, and small collectives in quick succession: none takes another's data.
void ranks_out_of_step(Communicator& comm, std::uint64_t seed, Findings& findings) {
  const Rng rng(seed, RngPurpose::kTest, 11);
  for (int i = 0; i < 30; ++i) {
    const auto counter = static_cast<std::uint64_t>(i);
    const auto late = rng.below(300, 1000 + counter * 64 + static_cast<std::uint64_t>(comm.rank()));
    std::this_thread::sleep_for(std::chrono::microseconds(late > 200 ? late : 0));
    const auto s = seed + counter;
    switch (rng.below(3, counter)) {
      case 0:
        all_to_all_of<float>(comm, s, 5, 0, findings);
        break;
      case 1:
        send_recv(comm, s, findings);
        break;
      default: {
        const auto stream = make_inline_stream();
        std::int32_t x = value<std::int32_t>(s, comm.rank(), 0);
        comm.all_reduce(as_buffer(&x, 1), as_buffer(&x, 1), ReduceOp::kSum, *stream);
        findings.expect(x == reduced<std::int32_t>(s, comm.size(), 1, ReduceOp::kSum)[0], "small sum ", i);
      }
    }
  }
}

constexpr std::array kCases{
    ConformanceCase{"all_reduce", all_reduce},
    ConformanceCase{"reductions in rank order", reductions_in_rank_order, true},
    ConformanceCase{"NaN survives max and min", nan_survives_max_and_min, true},
    ConformanceCase{"all_gather_v", all_gather_v},
    ConformanceCase{"reduce_scatter_v", reduce_scatter_v},
    ConformanceCase{"all_to_all_v", all_to_all_v},
    ConformanceCase{"broadcast", broadcast},
    ConformanceCase{"send_recv", send_recv},
    ConformanceCase{"split", split},
    ConformanceCase{"ranks out of step", ranks_out_of_step},
    ConformanceCase{"helpers", conformance_helpers},
    ConformanceCase{"argument errors", conformance_argument_errors},
    ConformanceCase{"message errors", conformance_message_errors},
};

}  // namespace

std::span<const ConformanceCase> conformance_cases() { return kCases; }

}  // namespace weft::test
