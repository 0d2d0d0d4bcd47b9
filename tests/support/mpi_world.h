// tests/support/mpi_world.h - test cases over MPI ranks: mpirun -n P build/tests/weft_test_mpi.
//
// Every rank runs the same test cases in the same order. A case is one call of check_on_mpi_ranks(), which brings the
// findings of all ranks to all ranks: so the ranks agree on which cases failed, and rank 0 alone prints.
#pragma once

#include <functional>

#include "comm/communicator.h"
#include "tests/support/findings.h"

namespace weft::test {

/// The world of this test binary.
[[nodiscard]] comm::Communicator& mpi_world();

/// Runs body on all ranks of mpi_world(). Findings of any rank become failures of the current test case on all of them.
/// An error that escapes body ends the job: the other ranks may be waiting for this one.
void check_on_mpi_ranks(const std::function<void(comm::Communicator&, Findings&)>& body);

}  // namespace weft::test
