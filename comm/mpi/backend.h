// comm/mpi/backend.h - what comm/factory.cpp needs from the MPI backend; no_mpi.cpp answers in builds without it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace weft::comm::mpi {

inline constexpr std::int64_t kPieceBytes = 256 << 10;

struct Options {
  std::chrono::milliseconds timeout{0};  ///< Of one collective; zero: for ever.
  /// Longer messages are sent in pieces of this size. Small enough for MPI to send a piece without asking first
  /// (mpi_scope.cpp): on a link that both directions share with their own answers, asking makes them take turns.
  std::int64_t piece_bytes = kPieceBytes;
  std::int64_t scratch_bytes = std::int64_t{4} << 20;  ///< At most this much memory for reductions, per group.
};

[[nodiscard]] bool is_in_build() noexcept;
/// "Open MPI v4.1.4, ...": of the library that is loaded; empty in builds without MPI. Needs no MPI_Init.
[[nodiscard]] std::string version();
/// All ranks that the launcher started. Initialises MPI at the first call, which must come from the main thread; MPI is
/// finalised with the last communicator. Throws Error{kComm}, and Error{kUnavailable} without MPI, without
/// MPI_THREAD_MULTIPLE, or once MPI has been finalised.
[[nodiscard]] std::unique_ptr<Communicator> make_world(const Options& options);

}  // namespace weft::comm::mpi
