// tests/comm/mpi/communicator_test.cpp - the conformance suite over MPI ranks.
#include <chrono>
#include <memory>

#include "comm/mpi/backend.h"
#include "tests/support/catch.h"
#include "tests/support/comm_conformance.h"
#include "tests/support/mpi_world.h"

namespace weft::test {
namespace {

TEST_CASE("every communicator over MPI", "[comm]") {
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      for (const std::uint64_t seed : {1U, 2U})
        check_on_mpi_ranks([&](auto& world, Findings& findings) { c.run(world, seed, findings); });
    }
  }
}

TEST_CASE("cut messages and small scratch over MPI", "[comm]") {
  comm::mpi::Options options;
  options.timeout = std::chrono::seconds(60);
  options.piece_bytes = 1000;  // not a multiple of an element: pieces are bytes
  options.scratch_bytes = 20000;
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      check_on_mpi_ranks([&](auto&, Findings& findings) {
        const auto other_world = comm::mpi::make_world(options);
        c.run(*other_world, 7, findings);
      });
    }
  }
}

TEST_CASE("a subgroup of three over MPI", "[comm]") {
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      check_on_mpi_ranks([&](auto& world, Findings& findings) {
        const auto three = world.split(world.rank() < 3 ? 0 : -1, 0, "three");
        if (three) c.run(*three, 5, findings);
        findings.expect(true, "the others wait");
      });
    }
  }
}

}  // namespace
}  // namespace weft::test
