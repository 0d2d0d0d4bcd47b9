// tests/support/comm_conformance.h - what every Communicator does, whatever its backend.
#pragma once

#include <cstdint>
#include <span>

#include "comm/communicator.h"
#include "tests/support/findings.h"

namespace weft::test {

/// One property. All ranks of `comm` call run() with the same seed. Inputs are integers, so that sums are exact in any
/// order and results are compared with ==; where the order of a sum is the property, they are not.
struct ConformanceCase {
  const char* name;
  void (*run)(comm::Communicator& comm, std::uint64_t seed, Findings& findings);
  bool on_hosts_only = false;  ///< What NCCL does not promise: the order of sums, and that kMax and kMin keep a NaN.
};

[[nodiscard]] std::span<const ConformanceCase> conformance_cases();

// Cases that stand in a file of their own.
void conformance_helpers(comm::Communicator& comm, std::uint64_t seed, Findings& findings);
void conformance_argument_errors(comm::Communicator& comm, std::uint64_t seed, Findings& findings);
void conformance_message_errors(comm::Communicator& comm, std::uint64_t seed, Findings& findings);

}  // namespace weft::test
