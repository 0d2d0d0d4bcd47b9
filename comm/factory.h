// comm/factory.h - how a process, or a test, gets its world communicator.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

#include "comm/communicator.h"

namespace weft::comm {

/// The world of this process. With MPI in the build and a launcher (mpirun, srun) around: MPI's world; MPI is initialised once with
/// MPI_THREAD_MULTIPLE and finalised when the last communicator is gone. Without either: a group of one.
/// `timeout`: how long a collective may wait for its peers before it throws Error{kTimeout}; zero: for ever.
/// Throws Error{kUnavailable} when a launcher started several ranks and this build has no MPI.
[[nodiscard]] std::unique_ptr<Communicator> make_world(std::chrono::milliseconds timeout = std::chrono::milliseconds(0));

/// Runs body(world of rank r) on num_ranks threads of this process and returns when all are done. When one throws, the
/// others' collectives fail with kComm, and the first rank's own error is rethrown. For tests and `local` runs.
void run_local_ranks(int num_ranks, const std::function<void(Communicator&)>& body,
                     std::chrono::milliseconds timeout = std::chrono::milliseconds(0));

}  // namespace weft::comm
