// tests/comm/nccl_test.cpp - the conformance suite over NCCL, with one GPU for each rank.
#include "comm/for_device.h"
#include "comm/nccl/backend.h"
#include "tests/support/catch.h"
#include "tests/support/comm_conformance.h"
#include "tests/support/host_front.h"
#include "tests/support/ranks.h"
#include "tests/support/skip.h"

namespace weft::test {
namespace {

using namespace weft::comm;

/// Leaves the case without NCCL and a GPU for every rank.
#define WEFT_NEED_NCCL(num_ranks)                                                      \
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda)); \
  if (const std::string why = nccl::why_unavailable(); !why.empty()) WEFT_SKIP(why);   \
  if (num_devices(DeviceKind::kCuda) < (num_ranks)) WEFT_SKIP("fewer than " << (num_ranks) << " GPUs")

void check_conformance(const ConformanceCase& c, int num_ranks) {
  INFO(num_ranks << " ranks");
  check_on_ranks(num_ranks, [&](Communicator& world, Findings& findings) {
    const Device device{DeviceKind::kCuda, world.rank()};
    HostFront front(for_device(world, device, {.transport = Transport::kNccl}), device);
    for (const std::uint64_t seed : {1U, 2U, 3U}) c.run(front, seed, findings);
  });
}

TEST_CASE("every communicator over NCCL, one rank", "[comm][nccl]") {
  WEFT_NEED_NCCL(1);
  for (const ConformanceCase& c : conformance_cases()) DYNAMIC_SECTION(c.name) {
      check_conformance(c, 1);
    }
}

TEST_CASE("every communicator over NCCL, local ranks with a GPU each", "[comm][nccl]") {
  WEFT_NEED_NCCL(4);
  for (const ConformanceCase& c : conformance_cases()) {
    if (c.on_hosts_only) continue;
    DYNAMIC_SECTION(c.name) {
      for (const int num_ranks : {2, 3, 4}) check_conformance(c, num_ranks);
    }
  }
}

}  // namespace
}  // namespace weft::test
