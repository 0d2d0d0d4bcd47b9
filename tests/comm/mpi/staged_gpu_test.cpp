// tests/comm/mpi/staged_gpu_test.cpp - the conformance suite over a GPU that MPI ranks share, through the host.
#include "comm/for_device.h"
#include "tests/support/catch.h"
#include "tests/support/comm_conformance.h"
#include "tests/support/host_front.h"
#include "tests/support/mpi_world.h"
#include "tests/support/skip.h"

namespace weft::test {
namespace {

TEST_CASE("every communicator of a GPU through the host, over MPI", "[comm]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      check_on_mpi_ranks([&](comm::Communicator& world, Findings& findings) {
        HostFront front(
            for_device(world, comm::choose_device(world, DeviceKind::kCuda), {.transport = comm::Transport::kHost}));
        c.run(front, 1, findings);
      });
    }
  }
}

}  // namespace
}  // namespace weft::test
