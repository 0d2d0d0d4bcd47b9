// tests/comm/for_device_test.cpp - the groups of a run on the CPU; staged_gpu_test.cpp has those of GPUs.
#include "comm/for_device.h"

#include "comm/staged_communicator.h"
#include "tests/support/catch.h"
#include "tests/support/ranks.h"
#include "tests/support/skip.h"

namespace weft::test {
namespace {

TEST_CASE("on the CPU the groups of a run are the world's", "[comm]") {
  check_on_ranks(3, [](comm::Communicator& world, Findings& findings) {
    const Device device = comm::choose_device(world, DeviceKind::kCpu);
    findings.expect(device == Device{}, "the CPU is one device");
    findings.expect(comm::find_transport(world, device) == comm::Transport::kHost, "nothing goes between GPUs");
    const auto group = comm::for_device(world, device);
    findings.expect(group->rank() == world.rank() && group->size() == 3, "the same ranks in the same order");
    findings.expect(group->device_kind() == DeviceKind::kCpu, "over host memory");
    findings.expect(&group->traffic() == &world.traffic(), "one traffic");
    findings.expect(group->timeout() == world.timeout() && world.timeout().count() > 0, "the world's timeout");
    findings.expect_error(ErrorCode::kInvalidArgument, "is for a GPU",
                          [&] { static_cast<void>(comm::make_staged_communicator(world.split(0, 0), {})); });
  });
}

TEST_CASE("a run that asks for a device that is not there is told so on all ranks", "[comm]") {
  if (is_available(DeviceKind::kCuda)) WEFT_SKIP("there is a GPU");
  CHECK(num_devices(DeviceKind::kCuda) == 0);
  CHECK(num_devices(DeviceKind::kCpu) == 1);
  check_on_ranks(2, [](comm::Communicator& world, Findings& findings) {
    findings.expect_error(ErrorCode::kUnavailable, why_unavailable(DeviceKind::kCuda),
                          [&] { static_cast<void>(comm::choose_device(world, DeviceKind::kCuda)); });
  });
}

}  // namespace
}  // namespace weft::test
