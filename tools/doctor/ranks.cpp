// tools/doctor/ranks.cpp - ranks on cores, and the settings of MPI and BLAS that cost time.
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string_view>
#include <thread>

#include "comm/factory.h"
#include "comm/topology.h"
#include "core/error.h"
#include "tools/build_info.h"
#include "tools/doctor/checks.h"

namespace weft::tools {
namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : value;
}

/// What the Open MPI that this process would load has, and which of it its settings (files and environment) choose.
struct OpenMpi {
  std::set<std::string> components;  ///< "btl:vader", "pml:ucx", ...; empty where ompi_info is not to be found.
  std::string btl, pml;              ///< "self,tcp", "^ucx"; empty: all.
};

OpenMpi ask_open_mpi() {
  OpenMpi out;
  FILE* pipe = ::popen("ompi_info --parsable --all 2> /dev/null", "r");
  if (pipe == nullptr) return out;
  char line[4096];
  while (std::fgets(line, sizeof line, pipe) != nullptr) {
    std::string_view text = line;  // "mca:btl:vader:version:mca:2.1.0", "mca:btl:base:param:btl:value:self,tcp"
    while (text.ends_with('\n')) text.remove_suffix(1);
    const auto value_of = [&](std::string_view key, std::string& value) {
      if (text.starts_with(key)) value = text.substr(key.size());
    };
    value_of("mca:btl:base:param:btl:value:", out.btl);
    value_of("mca:pml:base:param:pml:value:", out.pml);
    const std::size_t version = text.find(":version:");
    if (text.starts_with("mca:") && version != std::string_view::npos)
      out.components.emplace(text.substr(4, version - 4));
  }
  ::pclose(pipe);
  return out;
}

bool has_infiniband() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/infiniband", error)) {
    static_cast<void>(entry);
    return true;
  }
  return false;
}

/// Whether the choice that a variable makes ("self,tcp", "^vader") leaves `name` in.
bool allows(const std::string& choice, std::string_view name) {
  if (choice.empty()) return true;
  const bool excludes = choice.front() == '^';
  const std::string list = "," + choice.substr(excludes ? 1 : 0) + ",";
  const bool named = list.find(str(",", name, ",")) != std::string::npos;
  return named != excludes;
}

void check_transports(int ranks_here, Findings& findings) {
  const OpenMpi mpi = ask_open_mpi();
  if (mpi.components.empty()) {
    findings.ok("MPI transports", "ompi_info is not here to say");
    return;
  }
  const auto has = [&](const std::string& kind, const std::string& name, const std::string& choice) {
    return mpi.components.contains(str(kind, ":", name)) && allows(choice, name);
  };
  const bool ucx = has("pml", "ucx", mpi.pml), tcp = has("btl", "tcp", mpi.btl);
  const bool shared_memory = has("btl", "vader", mpi.btl) || has("btl", "sm", mpi.btl);
  std::string found;
  for (const auto& [is_there, name] : {std::pair(ucx, "UCX"), {shared_memory, "shared memory"}, {tcp, "TCP"}})
    if (is_there) found += str(found.empty() ? "" : ", ", name);
  if (ranks_here > 1 && !shared_memory && !ucx)
    findings.warn("MPI transports", found + "; ranks of a machine do without shared memory",
                  str("the setting btl = ", mpi.btl, " leaves vader out: mpirun --mca btl self,vader,tcp"));
  else if (has_infiniband() && !ucx)
    findings.warn("MPI transports", found + "; there is InfiniBand, and no UCX to use it",
                  "mpirun --mca pml ucx, or an Open MPI with UCX: the cluster's own module has it");
  else
    findings.ok("MPI transports", found);
}

void check_mpi(int ranks_here, Findings& findings) {
  if (!build_info().mpi) {
    findings.ok("MPI", "not in this build; ranks meet over TCP (RANK, WORLD_SIZE, WEFT_MASTER_ADDR)");
    return;
  }
  findings.ok("MPI", comm::mpi_version());
  const std::string yields = variable("OMPI_MCA_mpi_yield_when_idle");
  if (!yields.empty() && yields != "0" && yields != "false")
    findings.warn(
        "MPI yields when idle", str("OMPI_MCA_mpi_yield_when_idle=", yields),
        "mpirun --mca mpi_yield_when_idle 0: ranks that wait sleep anyway, and yielding costs milliseconds a message");
  check_transports(ranks_here, findings);
}

void check_cores(int ranks_here, Findings& findings) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (ranks_here > cores)
    findings.warn("ranks on a machine", str(ranks_here, " on ", cores, " cores"),
                  "they share cores, so steps take longer by as much: good for tests, not for figures");
  else
    findings.ok("ranks on a machine", str(ranks_here, " on ", cores, " cores"));
  const std::string set = variable("OPENBLAS_NUM_THREADS");
  const int threads = set.empty() ? cores : std::atoi(set.c_str());
  if (ranks_here > 1 && threads * ranks_here > cores)
    findings.warn("BLAS threads",
                  str(threads, " in each of ", ranks_here, " ranks on ", cores, " cores",
                      set.empty() ? "; OPENBLAS_NUM_THREADS is not set" : ""),
                  "export OPENBLAS_NUM_THREADS=1: a rank owns one core");
}

}  // namespace

void check_ranks(comm::Communicator& world, Findings& findings) {
  const auto stream = make_inline_stream();
  const comm::Topology topology = comm::find_topology(world, *stream);
  std::int32_t ranks_here = comm::ranks_on_machine(world, *stream);
  world.all_reduce(comm::as_buffer(&ranks_here, 1), comm::as_buffer(&ranks_here, 1), comm::ReduceOp::kMax, *stream);
  findings.ok(
      "ranks",
      str(world.size(), world.size() == 1 ? " rank" : " ranks", " on ", topology.num_nodes,
          topology.num_nodes == 1 ? " node" : " nodes",
          world.size() == 1 ? "; start it as a run is started (mpirun -n 4 weft doctor) to look at links" : ""));
  check_cores(ranks_here, findings);
  if (world.rank() == 0) check_mpi(ranks_here, findings);
}

}  // namespace weft::tools
