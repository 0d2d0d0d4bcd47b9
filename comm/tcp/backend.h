// comm/tcp/backend.h - what comm/factory.cpp needs from the TCP backend: ranks without MPI, on plain sockets.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "comm/communicator.h"

namespace weft::comm::tcp {

struct Options {
  std::string master_host = {};  ///< Where rank 0 runs, as the others reach it.
  int master_port = 0;           ///< Where rank 0 listens while the job starts.
  int rank = 0;
  int num_ranks = 1;
  std::chrono::milliseconds timeout{0};                ///< Of one collective; zero: for ever.
  std::chrono::milliseconds connect_timeout{120'000};  ///< Until all ranks have come.
  std::int64_t scratch_bytes = std::int64_t{4} << 20;  ///< At most this much memory for reductions, per group.
};

/// The job that the environment describes; nothing when it describes none of several ranks.
/// Ranks: RANK and WORLD_SIZE (torchrun), SLURM_PROCID and SLURM_STEP_NUM_TASKS (srun), or, when WEFT_MASTER_ADDR is
/// set, OMPI_COMM_WORLD_RANK and _SIZE. Meeting point: WEFT_MASTER_ADDR=host:port, MASTER_ADDR and MASTER_PORT, or the
/// first host of SLURM_STEP_NODELIST and a port that follows from the job's number. WEFT_CONNECT_TIMEOUT_S: seconds.
/// Throws Error{kInvalidArgument} for values that make no sense.
[[nodiscard]] std::optional<Options> from_environment();

/// "gpu[07-09,12],x" -> "gpu07": the first host of a Slurm node list.
[[nodiscard]] std::string first_host(std::string_view node_list);

/// Collective over the job: rank 0 listens, the others report there, and all connect to all. Nothing is encrypted, and
/// whoever reaches the port can take part: for networks that are the cluster's own. Throws Error{kUnavailable} when the
/// port is in use, Error{kTimeout} naming the ranks that did not come, Error{kInvalidArgument} on all ranks when they
/// disagree on the number of ranks or two have the same.
[[nodiscard]] std::unique_ptr<Communicator> make_world(const Options& options);

}  // namespace weft::comm::tcp
