#include "core/recording.h"

#include <array>
#include <future>
#include <memory>
#include <vector>

#include "core/memory.h"
#include "core/stream_clock.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"

using namespace weft;

namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr std::int64_t kCount = 1000, kBytes = kCount * std::int64_t{sizeof(int)};

struct Streams {
  std::unique_ptr<Stream> first = make_stream(kGpu, "first"), second = make_stream(kGpu, "second");
  std::array<Stream*, 2> all{first.get(), second.get()};
};

/// Pinned host memory as numbers.
struct Numbers {
  Memory memory{kGpu, kBytes, MemoryPlace::kPinned};
  void fill(int value) const {
    for (std::int64_t i = 0; i < kCount; ++i) memory.as<int>()[i] = value;
  }
  [[nodiscard]] bool all_are(int value) const {
    for (std::int64_t i = 0; i < kCount; ++i)
      if (memory.as<int>()[i] != value) return false;
    return true;
  }
};

void copy(Stream& stream, const Memory& to, const Memory& from) {
  stream.enqueue([&] { copy_bytes(stream, to.data(), from.data(), kBytes); });
}

}  // namespace

TEST_CASE("a recording runs at its launches, with what its memory holds then", "[recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  Streams s;
  const Numbers in, out;
  const Memory a(kGpu, kBytes), b(kGpu, kBytes), c(kGpu, kBytes);
  in.fill(1);
  out.fill(0);
  // to and fro between the streams: a missing edge would copy what is not there yet
  const auto recording = record(s.all, [&] {
    copy(*s.first, a, in.memory);
    s.second->wait(s.first->record());
    copy(*s.second, b, a);
    s.first->wait(s.second->record());
    copy(*s.first, c, b);
    s.second->wait(s.first->record());
    copy(*s.second, out.memory, c);
  });
  for (const auto& stream : s.all) stream->synchronize();
  CHECK(out.all_are(0));
  for (const int value : {1, 2, 3}) {
    in.fill(value);
    recording->launch(*s.first);
    s.first->synchronize();  // for all of it, on whatever stream it was recorded
    CHECK(out.all_are(value));
  }
  s.second->enqueue([&] { copy_bytes(*s.second, out.memory.data(), a.data(), kBytes); });  // streams run again
  in.fill(7);
  s.second->synchronize();
  CHECK(out.all_are(3));
}

TEST_CASE("a recording starts behind what its stream was given", "[recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  Streams s;
  const Numbers in, out;
  const Memory a(kGpu, kBytes);
  const auto recording = record(s.all, [&] { copy(*s.second, out.memory, a); });
  in.fill(5);
  copy(*s.first, a, in.memory);
  recording->launch(*s.first);
  s.first->synchronize();
  CHECK(out.all_are(5));
}

TEST_CASE("a clock's points in a recording are those of its last launch", "[recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  Streams s;
  const Numbers in;
  const Memory a(kGpu, kBytes);
  const auto clock = make_stream_clock(kGpu, 2);
  const auto recording = record(s.all, [&] {
    s.second->enqueue([&] {
      clock->note(0, *s.second);
      copy_bytes(*s.second, a.data(), in.memory.data(), kBytes);
      clock->note(1, *s.second);
    });
  });
  double last = 0.0;
  for (int launch = 0; launch < 3; ++launch) {
    clock->start();
    recording->launch(*s.first);
    s.first->synchronize();
    CHECK(clock->us(0) >= 0.0);
    CHECK(clock->us(1) >= clock->us(0));
    CHECK(clock->us(1) != last);
    last = clock->us(1);
  }
}

TEST_CASE("a recording keeps alive what its work asked to", "[recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  Streams s;
  const Numbers in, out;
  in.fill(9);
  auto owned = std::make_shared<Memory>(kGpu, kBytes);
  const std::weak_ptr<Memory> seen = owned;
  auto recording = record(s.all, [&] {
    copy(*s.first, *owned, in.memory);
    copy(*s.first, out.memory, *owned);
    s.first->keep_alive(owned);
  });
  owned.reset();
  recording->launch(*s.first);
  s.first->synchronize();
  CHECK(out.all_are(9));
  CHECK_FALSE(seen.expired());
  recording.reset();
  CHECK(seen.expired());
}

TEST_CASE("what cannot be recorded is said, and the streams go on", "[recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  Streams s;
  const auto cpu = make_stream({}, "cpu");
  const Numbers in, out;
  in.fill(4);
  out.fill(0);
  SECTION("a task that throws") {
    test::check_error(ErrorCode::kComm, "of the task", [&] {
      static_cast<void>(
          record(s.all, [&] { s.second->enqueue([] { throw Error(ErrorCode::kComm, "of the task"); }); }));
    });
  }
  SECTION("work() itself") {
    test::check_error(ErrorCode::kComm, "of the caller", [&] {
      static_cast<void>(record(s.all, [&] {
        copy(*s.first, out.memory, in.memory);
        throw Error(ErrorCode::kComm, "of the caller");
      }));
    });
  }
  SECTION("work of the host") {
    std::promise<void> open;
    cpu->enqueue([&] { open.get_future().wait(); });
    const Event event = cpu->record();
    test::check_error(ErrorCode::kUnavailable, "work of the host",
                      [&] { static_cast<void>(record(s.all, [&] { s.second->wait(event); })); });
    open.set_value();
  }
  SECTION("a wait for the streams") {
    test::check_error(ErrorCode::kDevice, "cudaStreamSynchronize", [&] {
      static_cast<void>(record(s.all, [&] {
        copy(*s.first, out.memory, in.memory);
        s.first->synchronize();
      }));
    });
  }
  CHECK(out.all_are(0));
  copy(*s.first, out.memory, in.memory);
  s.second->wait(s.first->record());
  s.second->synchronize();
  CHECK(out.all_are(4));
  std::array<Stream*, 1> of_cpu{cpu.get()};
  test::check_error(ErrorCode::kUnavailable, "CPU", [&] { static_cast<void>(record(of_cpu, [] {})); });
}
