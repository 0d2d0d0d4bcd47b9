// tests/comm/local_failure_test.cpp - what local ranks see when one of them fails, stalls or falls out of step.
#include <array>
#include <atomic>
#include <chrono>
#include <iterator>
#include <thread>
#include <vector>

#include "comm/factory.h"
#include "tests/support/catch.h"
#include "tests/support/ranks.h"

namespace weft::test {
namespace {

using comm::as_buffer;
using comm::Communicator;
using comm::ReduceOp;
using std::chrono::milliseconds;

void sum_one(Communicator& comm) {
  const auto stream = make_inline_stream();
  comm::barrier(comm, *stream);
}

/// The Error that run_local_ranks throws for `body`.
Error error_of(int num_ranks, const std::function<void(Communicator&)>& body, milliseconds timeout = milliseconds(0)) {
  try {
    comm::run_local_ranks(num_ranks, body, timeout);
  } catch (const Error& e) {
    return e;
  }
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

TEST_CASE("a rank's own error is rethrown and its peers get kComm", "[comm]") {
  for (const int culprit : {0, 2}) {
    std::atomic<int> num_peers_freed = 0;
    const Error e = error_of(4, [&](Communicator& world) {
      if (world.rank() == culprit) {
        std::this_thread::sleep_for(milliseconds(20));
        throw Error(ErrorCode::kNonFinite, "the loss is NaN");
      }
      try {
        sum_one(world);
      } catch (const Error& peer_error) {
        if (peer_error.code() == ErrorCode::kComm) ++num_peers_freed;
        throw;
      }
    });
    CHECK(e.code() == ErrorCode::kNonFinite);
    CHECK(e.message() == "the loss is NaN");
    CHECK(num_peers_freed == 3);
  }
}

TEST_CASE("a failing rank frees peers that wait in another group", "[comm]") {
  const Error e = error_of(4, [](Communicator& world) {
    const auto pair = world.split(world.rank() / 2, 0);
    if (world.rank() == 0) throw Error(ErrorCode::kIo, "disk full");
    sum_one(*pair);  // ranks 2 and 3 get through
    sum_one(world);
  });
  CHECK(e.code() == ErrorCode::kIo);
}

TEST_CASE("after an abort, new groups fail too", "[comm]") {
  const Error e = error_of(2, [](Communicator& world) {
    const auto self = world.split(world.rank(), 0);
    sum_one(*self);
    if (world.rank() == 0) return world.abort();
    while (true) sum_one(*self);
  });
  CHECK(e.code() == ErrorCode::kComm);
}

/// An abort that comes while ranks meet: all of them take part in that collective, or none does. Otherwise one would
/// wait for ever for a rank that left, or read memory that is gone (ASan and TSan look on).
TEST_CASE("an abort from another thread at any moment frees all ranks", "[comm]") {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> num_sums = 0;
    std::atomic<bool> stopped = false;
    const Error e = error_of(3, [&](Communicator& world) {
      std::jthread aborter;
      if (world.rank() == 0) {
        aborter = std::jthread([&] {
          while (num_sums < 10 && !stopped) std::this_thread::yield();
          world.abort();
        });
      }
      const auto stream = make_inline_stream();
      try {
        while (true) {
          std::vector<double> x(64 + static_cast<std::size_t>(round));
          world.all_reduce(as_buffer(x.data(), std::ssize(x)), as_buffer(x.data(), std::ssize(x)), ReduceOp::kSum,
                           *stream);
          ++num_sums;
        }
      } catch (const Error&) {
        stopped = true;
        throw;
      }
    });
    REQUIRE(e.code() == ErrorCode::kComm);
    REQUIRE(num_sums % 3 == 0);  // all of them or none
  }
}

TEST_CASE("a stalled rank is a timeout that names it", "[comm]") {
  const auto start = std::chrono::steady_clock::now();
  const Error e = error_of(
      3,
      [](Communicator& world) {
        const auto group = world.split(0, 0, "ep");
        if (world.rank() == 1) std::this_thread::sleep_for(milliseconds(400));
        sum_one(*group);
      },
      milliseconds(100));
  CHECK(e.code() == ErrorCode::kTimeout);
  INFO(e.message());
  CHECK(e.message().find("all_reduce on rank ") != std::string::npos);
  CHECK(e.message().find("(group world.ep[0]): no answer from rank 1 within 100 ms") != std::string::npos);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(30));
}

TEST_CASE("a rank that is late but within the deadline is waited for", "[comm]") {
  CHECK_NOTHROW(comm::run_local_ranks(
      3,
      [](Communicator& world) {
        if (world.rank() == 2) std::this_thread::sleep_for(milliseconds(50));
        sum_one(world);
      },
      std::chrono::seconds(60)));
}

TEST_CASE("ranks that call different collectives are told so", "[comm]") {
  const Error e = error_of(3, [](Communicator& world) {
    const auto stream = make_inline_stream();
    float x = 0;
    if (world.rank() == 2)
      world.broadcast(as_buffer(&x, 1), 0, *stream);
    else
      world.all_reduce(as_buffer(&x, 1), as_buffer(&x, 1), ReduceOp::kSum, *stream);
  });
  CHECK(e.code() == ErrorCode::kInvalidArgument);
  CHECK(e.message().find("rank 0 called all_reduce, rank 2 called broadcast") != std::string::npos);
}

TEST_CASE("ranks whose counts disagree are told so", "[comm]") {
  using Call = std::function<void(Communicator&, Stream&, std::int64_t)>;  // with n that is larger on rank 1
  std::array<float, 8> a{}, b{};
  const std::array<Call, 6> calls{
      [&](auto& c, auto& s, auto n) {
        c.all_reduce(as_buffer(a.data(), n), as_buffer(b.data(), n), ReduceOp::kSum, s);
      },
      [&](auto& c, auto& s, auto n) { comm::all_gather(c, as_buffer(a.data(), n), as_buffer(b.data(), 2 * n), s); },
      [&](auto& c, auto& s, auto n) {
        comm::reduce_scatter(c, as_buffer(a.data(), 2 * n), as_buffer(b.data(), n), ReduceOp::kSum, s);
      },
      [&](auto& c, auto& s, auto n) {
        const std::array counts{n, n};
        c.all_to_all_v(as_buffer(a.data(), 2 * n), counts, as_buffer(b.data(), 2 * n), counts, s);
      },
      [&](auto& c, auto& s, auto n) { c.broadcast(as_buffer(a.data(), n), 0, s); },
      [&](auto& c, auto& s, auto n) {
        const std::array<comm::SendOp, 1> sends{{{as_buffer(a.data(), n), 1 - c.rank()}}};
        const std::array<comm::RecvOp, 1> recvs{{{as_buffer(b.data(), n), 1 - c.rank()}}};
        c.send_recv(sends, recvs, s);
      }};
  for (std::size_t i = 0; i < calls.size(); ++i) {
    INFO("call " << i);
    const Error e = error_of(2, [&](Communicator& world) {
      const auto stream = make_inline_stream();
      calls[i](world, *stream, world.rank() == 1 ? 2 : 1);
    });
    CHECK(e.code() == ErrorCode::kInvalidArgument);
  }
}

TEST_CASE("messages without a partner are told so", "[comm]") {
  for (const bool one_send_too_many : {true, false}) {
    const Error e = error_of(2, [&](Communicator& world) {
      const auto stream = make_inline_stream();
      float x = 0;
      const std::array<comm::SendOp, 1> sends{{{as_buffer(&x, 1), 1 - world.rank()}}};
      const std::array<comm::RecvOp, 1> recvs{{{as_buffer(&x, 1), 1 - world.rank()}}};
      if (one_send_too_many)
        world.send_recv(sends, {}, *stream);
      else
        world.send_recv({}, recvs, *stream);
    });
    CHECK(e.code() == ErrorCode::kInvalidArgument);
    CHECK(e.message().find("more messages") != std::string::npos);
  }
}

TEST_CASE("run_local_ranks needs a rank", "[comm]") {
  CHECK(error_of(0, [](Communicator&) {}).code() == ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace weft::test
