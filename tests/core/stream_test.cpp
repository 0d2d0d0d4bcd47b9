#include "core/stream.h"

#include <algorithm>
#include <future>
#include <vector>

#include "core/memory.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"

using namespace weft;

namespace {

[[noreturn]] void fail(const std::string& what) { throw Error(ErrorCode::kComm, what); }

/// A CPU stream that does nothing until open() is called.
class Gate {
 public:
  Gate() {
    stream_->enqueue([opened = opened_.get_future().share()] { opened.wait(); });
  }
  void open() { opened_.set_value(); }
  [[nodiscard]] Stream& stream() { return *stream_; }

 private:
  std::promise<void> opened_;
  std::unique_ptr<Stream> stream_ = make_stream({}, "gate");  // last: it waits for its work when it dies
};

}  // namespace

TEMPLATE_TEST_CASE("a stream runs its tasks in order", "[stream]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  for (const StreamPriority priority : {StreamPriority::kNormal, StreamPriority::kHigh}) {
    const Device device{TestType::kKind, 0};
    const auto stream = make_stream(device, "ordered", priority);
    CHECK(stream->device() == device);
    CHECK((stream->native() != nullptr) == (device.kind == DeviceKind::kCuda));
    std::vector<int> seen;
    for (int i = 0; i < 100; ++i) stream->enqueue([&seen, i] { seen.push_back(i); });
    stream->synchronize();
    REQUIRE(seen.size() == 100);
    CHECK(std::is_sorted(seen.begin(), seen.end()));
  }
}

TEMPLATE_TEST_CASE("the first error of a stream sticks until somebody waits", "[stream]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const auto stream = make_stream({TestType::kKind, 0}, "failing");
  bool later = false;
  stream->enqueue([] { fail("first"); });
  stream->enqueue([&] { later = true; });
  stream->enqueue([] { fail("second"); });
  const Event failed = stream->record();
  test::check_error(ErrorCode::kComm, "first", [&] { stream->synchronize(); });
  CHECK_FALSE(later);
  stream->synchronize();  // collected once
  stream->enqueue([&] { later = true; });
  stream->synchronize();
  CHECK(later);
  test::check_error(ErrorCode::kComm, "first", [&] { failed.wait(); });  // the event keeps it
  CHECK(failed.done());
}

TEMPLATE_TEST_CASE("a stream waits for another's event and inherits its error", "[stream]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const Device device{TestType::kKind, 0};
  const auto first = make_stream(device, "first"), second = make_stream(device, "second");
  std::vector<int> sent(1'000'000, 7), received(sent.size());
  const auto bytes = static_cast<std::int64_t>(sent.size() * sizeof sent[0]);
  const Memory there(device, bytes);
  const Memory source(device, bytes, MemoryPlace::kPinned), target(device, bytes, MemoryPlace::kPinned);
  std::copy(sent.begin(), sent.end(), source.as<int>());
  Gate gate;
  first->wait(gate.stream().record());
  first->enqueue([&] { copy_bytes(*first, there.data(), source.data(), bytes); });
  second->wait(first->record());
  second->enqueue([&] { copy_bytes(*second, target.data(), there.data(), bytes); });
  const Event end = second->record();
  CHECK_FALSE(end.done());
  gate.open();
  end.wait();
  std::copy_n(target.as<int>(), received.size(), received.data());
  CHECK(end.done());
  CHECK(received == sent);

  bool ran = false;
  first->enqueue([] { fail("upstream"); });
  second->wait(first->record());
  second->enqueue([&] { ran = true; });
  test::check_error(ErrorCode::kComm, "upstream", [&] { second->synchronize(); });
  CHECK_FALSE(ran);
  test::check_error(ErrorCode::kComm, "upstream", [&] { first->synchronize(); });
  second->wait(Event());  // long past
  second->synchronize();
}

TEMPLATE_TEST_CASE("a stream waits for work of the CPU without holding up who enqueues", "[stream]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const Device device{TestType::kKind, 0};
  const auto stream = make_stream(device, "behind");
  const Memory source(device, sizeof(int), MemoryPlace::kPinned), target(device, sizeof(int), MemoryPlace::kPinned);
  *source.as<int>() = 1;
  *target.as<int>() = 0;
  Gate gate;
  for (int round = 0; round < 3; ++round) {  // several waits on one stream, all pending
    gate.stream().enqueue([&] { ++*source.as<int>(); });
    stream->wait(gate.stream().record());
  }
  stream->enqueue([&] { copy_bytes(*stream, target.data(), source.data(), sizeof(int)); });
  const Event end = stream->record();
  CHECK_FALSE(end.done());
  gate.open();
  stream->synchronize();
  CHECK(end.done());
  CHECK(*target.as<int>() == 4);
}

TEMPLATE_TEST_CASE("an error of CPU work reaches the stream that waits for it", "[stream]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const auto stream = make_stream({TestType::kKind, 0}, "behind");
  Gate gate;
  gate.stream().enqueue([] { fail("on the CPU"); });
  stream->wait(gate.stream().record());
  const auto other = make_stream(stream->device(), "behind that");
  const Event behind = stream->record();
  other->wait(behind);
  gate.open();
  test::check_error(ErrorCode::kComm, "on the CPU", [&] { behind.wait(); });
  test::check_error(ErrorCode::kComm, "on the CPU", [&] { other->synchronize(); });
  test::check_error(ErrorCode::kComm, "on the CPU", [&] { stream->synchronize(); });
  stream->synchronize();
  const Event over = gate.stream().record();
  CHECK_THROWS_AS(over.wait(), Error);
  stream->wait(over);  // failed before anybody waited
  test::check_error(ErrorCode::kComm, "on the CPU", [&] { stream->synchronize(); });
  CHECK_THROWS_AS(gate.stream().synchronize(), Error);
}

TEMPLATE_TEST_CASE("a stream keeps what its work needs until the work is done", "[stream]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const auto stream = make_stream({TestType::kKind, 0}, "keeper");
  Gate gate;
  stream->wait(gate.stream().record());
  auto owner = std::make_shared<const int>(3);
  const std::weak_ptr<const int> watch = owner;
  stream->keep_alive(std::move(owner));
  stream->enqueue([] {});
  CHECK_FALSE(watch.expired());
  gate.open();
  stream->synchronize();
  CHECK(watch.expired());
}
