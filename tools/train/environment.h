// tools/train/environment.h - what a run keeps of where it ran, and of what its ranks sent.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "comm/topology.h"
#include "comm/traffic.h"
#include "parallel/train/run_config.h"

namespace weft::tools {

[[nodiscard]] std::string now_utc();  ///< "2026-01-31T12:00:00Z"

/// Host names of all nodes, in order of their ranks. Collective.
[[nodiscard]] std::vector<std::string> node_hosts(comm::Communicator& world, const comm::Topology& topology);

/// env.json: build, hosts, cores, the device of this rank, ranks, and the digest of the config. Collective.
[[nodiscard]] std::string environment_text(comm::Communicator& world, const comm::Topology& topology,
                                           const parallel::RunConfig& config, Device device);

/// traffic.json: {"schema": 1, "ranks", "steps", "node_of_rank": [P], "sent_bytes": [P][P] (row: who sent),
/// "intra_bytes", "inter_bytes", "by_collective": {"all_to_all": bytes, ...}}. steps: of this start of the run; the
/// bytes are those of its start, validations and checkpoints too. Throws Error{kIo}.
void write_traffic(const std::filesystem::path& path, const comm::TrafficMatrix& traffic,
                   const comm::Topology& topology, std::int64_t steps);

}  // namespace weft::tools
