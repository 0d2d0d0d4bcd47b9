#include "core/memory.h"

#include <cstdint>
#include <numeric>
#include <vector>

#include "core/stream.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"

using namespace weft;

namespace {

constexpr auto kPlaces = {MemoryPlace::kDevice, MemoryPlace::kPinned};

}  // namespace

TEMPLATE_TEST_CASE("memory is aligned, owned once, and nothing for no bytes", "[memory]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const Device device{TestType::kKind, 0};
  const std::uintptr_t alignment = device.kind == DeviceKind::kCpu ? 64 : 256;
  for (const MemoryPlace place : kPlaces) {
    for (const std::int64_t bytes : {1, 63, 64, 1000, 1 << 20}) {
      Memory memory(device, bytes, place);
      REQUIRE(memory.data() != nullptr);
      CHECK(memory.bytes() == bytes);
      if (place == MemoryPlace::kDevice) CHECK(reinterpret_cast<std::uintptr_t>(memory.data()) % alignment == 0);
      const void* data = memory.data();
      const Memory moved = std::move(memory);
      CHECK(moved.data() == data);
      CHECK(memory.data() == nullptr);  // NOLINT(bugprone-use-after-move): that is the point
    }
    CHECK(Memory(device, 0, place).data() == nullptr);
  }
}

TEMPLATE_TEST_CASE("memory that cannot be had is an error that says how much", "[memory]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const Device device{TestType::kKind, 0};
  test::check_error(ErrorCode::kInvalidArgument, "negative size -1", [&] { Memory(device, -1); });
  const std::int64_t bytes = std::int64_t{1} << 46;
  test::check_error(ErrorCode::kOutOfMemory, std::to_string(bytes), [&] { Memory(device, bytes); });
  CHECK(Memory(device, 64).data() != nullptr);  // and the next request is served
}

TEMPLATE_TEST_CASE("bytes come back from a device as they went there", "[memory]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const Device device{TestType::kKind, 0};
  const auto stream = make_stream(device, "copies");
  std::vector<std::int32_t> sent(10'007), received(sent.size());
  std::iota(sent.begin(), sent.end(), 5);
  const auto bytes = static_cast<std::int64_t>(sent.size() * sizeof sent[0]);
  const Memory there(device, bytes), also_there(device, bytes), pinned(device, bytes, MemoryPlace::kPinned);
  stream->enqueue([&] {
    copy_bytes(*stream, there.data(), sent.data(), bytes);
    copy_bytes(*stream, also_there.data(), there.data(), bytes);
    copy_bytes(*stream, pinned.data(), also_there.data(), bytes);
    copy_bytes(*stream, received.data(), also_there.data(), bytes);
    copy_bytes(*stream, nullptr, nullptr, 0);
  });
  stream->synchronize();
  CHECK(received == sent);
  CHECK(std::equal(sent.begin(), sent.end(), pinned.as<std::int32_t>()));
}

TEST_CASE("copies refuse what makes no sense", "[memory]") {
  const auto stream = make_inline_stream();
  std::int32_t value = 0;
  test::check_error(ErrorCode::kInvalidArgument, "negative size -4", [&] { copy_bytes(*stream, &value, &value, -4); });
  test::check_error(ErrorCode::kInvalidArgument, "no memory for 4 bytes",
                    [&] { copy_bytes(*stream, nullptr, &value, 4); });
  test::check_error(ErrorCode::kInvalidArgument, "no memory for 4 bytes",
                    [&] { copy_bytes(*stream, &value, nullptr, 4); });
}

TEST_CASE("a device that is not there is unavailable, with the reason", "[memory]") {
  CHECK(why_unavailable(DeviceKind::kCpu).empty());
  CHECK(why_unavailable(DeviceKind::kCuda).empty() == is_available(DeviceKind::kCuda));
  const Device missing{DeviceKind::kCuda, is_available(DeviceKind::kCuda) ? 1000 : 0};
  const std::string reason = is_available(DeviceKind::kCuda) ? "no GPU 1000" : why_unavailable(DeviceKind::kCuda);
  for (const MemoryPlace place : kPlaces)
    test::check_error(ErrorCode::kUnavailable, reason, [&] { Memory(missing, 64, place); });
  test::check_error(ErrorCode::kUnavailable, reason, [&] { static_cast<void>(make_stream(missing, "none")); });
}
