// tests/comm/nccl_test.cpp - the conformance suite over NCCL, with one rank.
#include <chrono>

#include "comm/factory.h"
#include "comm/for_device.h"
#include "comm/nccl/backend.h"
#include "tests/support/catch.h"
#include "tests/support/comm_conformance.h"
#include "tests/support/findings.h"
#include "tests/support/host_front.h"
#include "tests/support/skip.h"

namespace weft::test {
namespace {

using namespace weft::comm;

TEST_CASE("every communicator over NCCL", "[comm][nccl]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  if (const std::string why = nccl::why_unavailable(); !why.empty()) WEFT_SKIP(why);
  const auto host = make_world(Backend::kLocal, std::chrono::seconds(60));
  HostFront world(for_device(*host, {DeviceKind::kCuda, 0}, {.transport = Transport::kNccl}));
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      for (const std::uint64_t seed : {1U, 2U, 3U}) {
        INFO("seed " << seed);
        Findings findings;
        c.run(world, seed, findings);
        CHECK(findings.texts() == std::vector<std::string>{});
      }
    }
  }
}

}  // namespace
}  // namespace weft::test
