// tests/comm/staged_gpu_test.cpp - collectives of a GPU that go through the host: conformance, order, errors, traffic.
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "comm/factory.h"
#include "comm/for_device.h"
#include "comm/staged_communicator.h"
#include "tests/support/catch.h"
#include "tests/support/comm_conformance.h"
#include "tests/support/host_front.h"
#include "tests/support/ranks.h"
#include "tests/support/skip.h"

namespace weft::test {
namespace {

using comm::as_buffer;
using comm::Communicator;
using comm::ReduceOp;
using comm::Transport;
using std::chrono::milliseconds;

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr comm::DeviceGroupOptions kThroughHost{.transport = Transport::kHost};

TEST_CASE("every communicator of a GPU through the host, over local ranks", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      for (const int num_ranks : {1, 2, 3, 4}) {
        INFO(num_ranks << " ranks");
        check_on_ranks(num_ranks, [&](Communicator& world, Findings& findings) {
          HostFront front(for_device(world, kGpu, kThroughHost));
          for (const std::uint64_t seed : {1U, 2U}) c.run(front, seed, findings);
        });
      }
    }
  }
}

TEST_CASE("collectives of a GPU in small pieces", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  constexpr std::int64_t kPieceBytes = 30011;  // not a multiple of an element
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      check_on_ranks(3, [&](Communicator& world, Findings& findings) {
        HostFront front(make_staged_communicator(world.split(0, world.rank()), kGpu, kPieceBytes));
        c.run(front, 3, findings);
      });
    }
  }
}

/// An array on the GPU, set and read through a stream.
class Array {
 public:
  Array(Stream& stream, const std::vector<double>& values)
      : stream_(stream), count_(static_cast<std::int64_t>(values.size())), memory_(kGpu, count_ * 8) {
    stream_.enqueue([&] { copy_bytes(stream_, memory_.data(), values.data(), memory_.bytes()); });
    stream_.record().wait();  // `values` may go
  }
  [[nodiscard]] comm::Buffer buffer() const { return as_buffer(memory_.as<double>(), count_); }
  /// Waits for the stream; throws its error.
  [[nodiscard]] std::vector<double> values() const {
    std::vector<double> out(static_cast<std::size_t>(count_));
    stream_.enqueue([&] { copy_bytes(stream_, out.data(), memory_.data(), memory_.bytes()); });
    stream_.synchronize();
    return out;
  }

 private:
  Stream& stream_;
  std::int64_t count_;
  Memory memory_;
};

void sum(Communicator& group, const Array& x, Stream& stream) {
  stream.enqueue([&] { group.all_reduce(x.buffer(), x.buffer(), ReduceOp::kSum, stream); });
}

TEST_CASE("a collective of a GPU holds up nobody who enqueues, and comes in stream order", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  std::atomic<bool> open = false;
  check_on_ranks(2, [&](Communicator& world, Findings& findings) {
    const auto group = for_device(world, kGpu, kThroughHost);
    const auto gate = make_stream({}, "gate"), first = make_stream(kGpu, "first"), second = make_stream(kGpu, "second");
    gate->enqueue([&] {
      while (!open) std::this_thread::yield();
    });
    const Array x(*first, std::vector<double>(1000, 1.0 + world.rank())), y(*second, {5.0});
    first->wait(gate->record());  // nothing below can run yet
    sum(*group, x, *first);
    sum(*group, x, *first);
    sum(*group, y, *second);  // behind those two, as the group's collectives have one order
    const Event last = second->record();
    findings.expect(!last.done(), "a collective is done although its input cannot be");
    comm::barrier(world, *make_inline_stream());  // every rank came here while all of its work was held up
    open = true;
    findings.expect(x.values() == std::vector<double>(1000, 6.0), "sum of a sum is ", x.values()[0]);
    findings.expect(y.values() == std::vector<double>{10.0}, "sum on the second stream");
  });
}

TEST_CASE("a rank of GPUs that does not come is a timeout that reaches the streams", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  try {
    comm::run_local_ranks(
        2,
        [](Communicator& world) {
          const auto group = for_device(world, kGpu, kThroughHost);
          const auto stream = make_stream(kGpu, "stream"), other = make_stream(kGpu, "other");
          const Array x(*stream, {1.0});
          if (world.rank() == 1) return std::this_thread::sleep_for(milliseconds(600));
          sum(*group, x, *stream);
          other->wait(stream->record());
          sum(*group, x, *other);  // of a group that is lost by then
          Findings findings;
          const auto wants = [&](const auto& call) {
            findings.expect_error(ErrorCode::kTimeout,
                                  "all_reduce on rank 0 of 2 (group world.gpu[0]): no answer from rank 1", call);
          };
          wants([&] { stream->record().wait(); });  // an event has it, not only synchronize()
          wants([&] { other->synchronize(); });
          wants([&] { stream->synchronize(); });
          wants([&] { static_cast<void>(group->split(0, 0)); });
          if (!findings.texts().empty()) throw Error(ErrorCode::kInternal, findings.texts().front());
        },
        milliseconds(150));
  } catch (const Error& e) {
    FAIL(e.what());
  }
}

TEST_CASE("abort ends a collective of a GPU", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  std::atomic<int> num_freed = 0;
  CHECK_THROWS_AS(comm::run_local_ranks(3,
                                        [&](Communicator& world) {
                                          const auto group = for_device(world, kGpu, kThroughHost);
                                          const auto stream = make_stream(kGpu, "stream");
                                          const Array x(*stream, {1.0});
                                          if (world.rank() == 2) return group->abort();
                                          sum(*group, x, *stream);
                                          try {
                                            stream->synchronize();
                                          } catch (const Error& e) {
                                            if (e.code() == ErrorCode::kComm) ++num_freed;
                                            throw;
                                          }
                                        }),
                  Error);
  CHECK(num_freed == 2);
}

TEST_CASE("an error of a GPU's stream does not keep its rank from collectives that peers wait for", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  check_on_ranks(2, [](Communicator& world, Findings& findings) {
    const auto group = for_device(world, kGpu, kThroughHost);
    const auto cpu = make_stream({}, "cpu"), stream = make_stream(kGpu, "stream");
    const Array x(*stream, {1.0}), y(*stream, {2.0});
    std::atomic<bool> open = false;
    cpu->enqueue([&] {
      while (!open) std::this_thread::yield();
      if (world.rank() == 0) throw Error(ErrorCode::kInvalidArgument, "token 7 of 4");
    });
    stream->wait(cpu->record());
    sum(*group, x, *stream);
    open = true;
    if (world.rank() == 0)
      findings.expect_error(ErrorCode::kInvalidArgument, "token 7 of 4", [&] { stream->synchronize(); });
    else
      findings.expect(x.values() == std::vector<double>{2.0}, "the peer's sum");
    sum(*group, y, *stream);  // the error was collected; the group is as good as before
    findings.expect(y.values() == std::vector<double>{4.0}, "the sum after it");
    try {
      cpu->synchronize();
    } catch (const Error&) {
    }
  });
}

TEST_CASE("bytes of groups of GPUs count into the world's traffic, once", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  check_on_ranks(4, [](Communicator& world, Findings& findings) {
    const auto group = for_device(world, kGpu, kThroughHost);
    const auto pair = group->split(world.rank() % 2, 0, "pair");
    const auto stream = make_stream(kGpu, "stream");
    const Array x(*stream, {1.0, 2.0, 3.0});
    const std::int64_t before = world.traffic().sent_bytes()[static_cast<std::size_t>((world.rank() + 2) % 4)];
    stream->enqueue([&] { pair->broadcast(x.buffer(), 0, *stream); });
    static_cast<void>(x.values());
    const std::int64_t sent = world.traffic().sent_bytes()[static_cast<std::size_t>((world.rank() + 2) % 4)] - before;
    findings.expect(sent == (pair->rank() == 0 ? 24 : 0), "counted ", sent, " bytes to the other of the pair");
    findings.expect(&pair->traffic() == &world.traffic(), "the pair has a traffic of its own");
    findings.expect(pair->timeout() == world.timeout(), "the pair has a timeout of its own");
  });
}

TEST_CASE("ranks that share a GPU go through the host, and NCCL says why not", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  check_on_ranks(2, [](Communicator& world, Findings& findings) {
    findings.expect(choose_device(world, DeviceKind::kCuda).kind == DeviceKind::kCuda, "there is a GPU");
    const auto group = for_device(world, kGpu);
    const auto stream = make_stream(kGpu, "stream");
    const Array x(*stream, {3.0});
    sum(*group, x, *stream);
    findings.expect(x.values() == std::vector<double>{6.0}, "the sum");
    findings.expect_error(ErrorCode::kUnavailable, "ranks 0 and 1 share a GPU",
                          [&] { static_cast<void>(for_device(world, kGpu, {.transport = Transport::kNccl})); });
  });
}

}  // namespace
}  // namespace weft::test
