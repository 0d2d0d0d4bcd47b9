// tests/comm/communicator_test.cpp - the conformance suite over local ranks.
#include "tests/support/catch.h"
#include "tests/support/comm_conformance.h"
#include "tests/support/ranks.h"

namespace weft::test {
namespace {

TEST_CASE("every communicator over local ranks", "[comm]") {
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      for (const int num_ranks : {1, 2, 3, 4, 5, 8}) {
        for (const std::uint64_t seed : {1U, 2U, 3U}) {
          INFO(num_ranks << " ranks, seed " << seed);
          check_on_ranks(num_ranks, [&](auto& comm, Findings& findings) { c.run(comm, seed, findings); });
        }
      }
    }
  }
}

}  // namespace
}  // namespace weft::test
