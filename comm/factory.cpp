#include "comm/factory.h"

#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "comm/local/backend.h"
#include "comm/mpi/backend.h"
#include "comm/tcp/backend.h"
#include "core/error.h"
#include "core/first_error.h"
#include "core/log.h"

namespace weft::comm {
namespace {

/// What the environment says about who started this process. `variable` is empty without a launcher.
struct Launcher {
  std::string_view variable;
  int num_ranks = 1;
};

bool is_set(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0';
}

/// srun starts ranks with or without a server that MPI could ask about them (--mpi=none).
bool mpi_would_see(const Launcher& launcher) {
  return launcher.variable != "SLURM_STEP_NUM_TASKS" || is_set("PMIX_RANK") || is_set("PMI_RANK") || is_set("PMI_FD");
}

Launcher find_launcher() {
  // Open MPI's mpirun; MPICH's and Slurm's PMI; srun itself (a plain sbatch script has no SLURM_STEP_NUM_TASKS)
  for (const std::string_view name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) {
    const char* value = std::getenv(name.data());
    if (value == nullptr) continue;
    const int num_ranks = std::atoi(value);
    if (num_ranks >= 1) return {name, num_ranks};
  }
  return {};
}

std::unique_ptr<Communicator> make_group_of_one(std::chrono::milliseconds timeout) {
  auto job = std::make_shared<local::Job>(timeout);
  auto group = job->make_group(1, "world");
  return local::make_communicator(std::move(job), std::move(group), 0, 1, "world");
}

std::unique_ptr<Communicator> make_mpi_world(const Launcher& launcher, std::chrono::milliseconds timeout) {
  mpi::Options options;
  options.timeout = timeout;
  auto world = mpi::make_world(options);
  if (world->size() == 1 && launcher.num_ranks > 1) {
    throw Error(ErrorCode::kUnavailable,
                str("the launcher started ", launcher.num_ranks, " ranks (", launcher.variable, "), MPI sees one"),
                "start with this MPI's own mpirun, or with `srun --mpi=pmix`");
  }
  return world;
}

std::unique_ptr<Communicator> make_tcp_world(std::chrono::milliseconds timeout) {
  std::optional<tcp::Options> options = tcp::from_environment();
  if (!options)
    throw Error(ErrorCode::kUnavailable, "the environment describes no job of several ranks",
                "set RANK, WORLD_SIZE and WEFT_MASTER_ADDR=host:port");
  options->timeout = timeout;
  return tcp::make_world(*options);
}

}  // namespace

std::unique_ptr<Communicator> make_world(Backend backend, std::chrono::milliseconds timeout) {
  const Launcher launcher = find_launcher();
  switch (backend) {
    case Backend::kLocal:
      return make_group_of_one(timeout);
    case Backend::kMpi:
      return make_mpi_world(launcher, timeout);
    case Backend::kTcp:
      return make_tcp_world(timeout);
    case Backend::kAuto:
      break;
  }
  const bool use_mpi =
      !launcher.variable.empty() && mpi::is_in_build() && mpi_would_see(launcher) && !is_set("WEFT_MASTER_ADDR");
  const bool use_tcp = !use_mpi && tcp::from_environment().has_value();
  log()->debug("communication: {}", use_mpi ? "mpi" : use_tcp ? "tcp" : "local, one rank");
  if (use_tcp) return make_tcp_world(timeout);
  return use_mpi || launcher.num_ranks > 1 ? make_mpi_world(launcher, timeout) : make_group_of_one(timeout);
}

std::unique_ptr<Communicator> make_world(std::chrono::milliseconds timeout) {
  return make_world(Backend::kAuto, timeout);
}

std::string mpi_version() {
  const std::string text = mpi::version();
  return text.substr(0, text.find(','));
}

void run_local_ranks(int num_ranks, const std::function<void(Communicator&)>& body, std::chrono::milliseconds timeout) {
  WEFT_CHECK(num_ranks >= 1, "run_local_ranks: ", num_ranks, " ranks");
  const auto job = std::make_shared<local::Job>(timeout);
  const auto group = job->make_group(num_ranks, "world");
  FirstError first_error;
  const auto run_rank = [&](int rank) {
    const bool is_done = first_error.run([&] {
      const auto world = local::make_communicator(job, group, rank, num_ranks, "world");
      body(*world);
    });
    if (!is_done) job->abort();
  };
  std::vector<std::jthread> ranks;
  for (int rank = 0; rank < num_ranks; ++rank) ranks.emplace_back(run_rank, rank);
  ranks.clear();  // joins
  first_error.rethrow();
}

}  // namespace weft::comm
