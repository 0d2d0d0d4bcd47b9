// comm/factory.h - how a process, or a test, gets its world communicator, over host memory; comm/for_device.h goes on
// from it to a GPU's.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace weft::comm {

/// kAuto: mpi under mpirun or an srun that speaks PMI; tcp where the environment describes a job without MPI
/// (comm/tcp/backend.h) or WEFT_MASTER_ADDR asks for it; else local. kLocal: this process alone, a group of one.
enum class Backend : std::uint8_t { kAuto, kLocal, kMpi, kTcp };

/// The world of this process. MPI is initialised once, with MPI_THREAD_MULTIPLE, by the main thread, and finalised when
/// the last communicator is gone; without a launcher it is not touched at all.
/// `timeout`: how long a collective may wait for its peers before it throws Error{kTimeout}; zero: for ever.
/// Throws Error{kUnavailable} when a launcher started several ranks and this build has no MPI, or MPI does not see
/// them; and for a named backend that this build or the environment lacks.
[[nodiscard]] std::unique_ptr<Communicator> make_world(Backend backend, std::chrono::milliseconds timeout);
[[nodiscard]] std::unique_ptr<Communicator> make_world(
    std::chrono::milliseconds timeout = std::chrono::milliseconds(0));

/// What the MPI library says of itself, up to the first comma: "Open MPI v4.1.4"; empty in builds without MPI.
[[nodiscard]] std::string mpi_version();

/// Runs body(world of rank r) on num_ranks threads of this process and returns when all are done. When one throws, the
/// others' collectives fail with kComm, and the first rank's own error is rethrown. For tests and `local` runs.
void run_local_ranks(int num_ranks, const std::function<void(Communicator&)>& body,
                     std::chrono::milliseconds timeout = std::chrono::milliseconds(0));

}  // namespace weft::comm
