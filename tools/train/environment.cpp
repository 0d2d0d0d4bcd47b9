#include "tools/train/environment.h"

#include <cblas.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>

#include "comm/factory.h"
#include "core/atomic_file.h"
#include "core/checksum.h"
#include "tools/build_info.h"
#include "tools/config/loader.h"
#include "tools/train/process.h"

namespace weft::tools {
namespace {

using nlohmann::ordered_json;

}  // namespace

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::vector<std::string> node_hosts(comm::Communicator& world, const comm::Topology& topology) {
  constexpr std::int64_t kLength = 64;
  std::string name = host_name();
  name.resize(kLength, '\0');
  std::vector<std::int32_t> mine(name.begin(), name.end()), all(static_cast<std::size_t>(kLength * world.size()));
  comm::all_gather(world, comm::as_buffer(static_cast<const std::int32_t*>(mine.data()), kLength),
                   comm::as_buffer(all.data(), static_cast<std::int64_t>(all.size())), *make_inline_stream());
  std::vector<std::string> hosts(static_cast<std::size_t>(topology.num_nodes));
  for (int r = 0; r < world.size(); ++r) {
    std::string host;
    for (std::int64_t i = 0; i < kLength && all[static_cast<std::size_t>(r * kLength + i)] != 0; ++i)
      host += static_cast<char>(all[static_cast<std::size_t>(r * kLength + i)]);
    hosts[static_cast<std::size_t>(topology.node_of_rank[static_cast<std::size_t>(r)])] = host;
  }
  return hosts;
}

std::string environment_text(comm::Communicator& world, const comm::Topology& topology,
                             const parallel::RunConfig& config, Device device) {
  const BuildInfo& build = build_info();
  const std::string config_text = to_text(config);
  const ordered_json facts{
      {"weft", build.version},
      {"build_type", build.build_type},
      {"compiler", build.compiler},
      {"flags", build.flags},
      {"mpi", comm::mpi_version()},
      {"blas", openblas_get_config()},
      {"started", now_utc()},
      {"host", host_name()},
      {"hosts", node_hosts(world, topology)},
      {"processor", processor_name()},
      {"cores", std::thread::hardware_concurrency()},
      {"memory_bytes", total_memory_bytes()},
      {"device", {{"kind", name_of(device.kind)}, {"name", device_name(device)}}},
      {"ranks", world.size()},
      {"nodes", topology.num_nodes},
      {"ranks_per_node", topology.local_size},
      {"seed", config.train.seed},
      {"config_digest", checksum_to_text(checksum(config_text.data(), static_cast<std::int64_t>(config_text.size())))}};
  return facts.dump(2) + "\n";
}

void write_traffic(const std::filesystem::path& path, const comm::TrafficMatrix& traffic,
                   const comm::Topology& topology, std::int64_t steps) {
  ordered_json rows = ordered_json::array(), by_collective = ordered_json::object();
  std::int64_t bytes[2] = {0, 0};  // inside nodes, between them
  for (int src = 0; src < traffic.num_ranks; ++src) {
    const auto row = traffic.sent_bytes.begin() + std::ptrdiff_t{src} * traffic.num_ranks;
    rows.push_back(std::vector<std::int64_t>(row, row + traffic.num_ranks));
    for (int dst = 0; dst < traffic.num_ranks; ++dst) bytes[topology.same_node(src, dst) ? 0 : 1] += row[dst];
  }
  for (int c = 0; c < comm::kNumCollectives; ++c)
    by_collective[std::string(to_string(static_cast<comm::Collective>(c)))] =
        traffic.by_collective[static_cast<std::size_t>(c)];
  const ordered_json facts{{"schema", 1},
                           {"ranks", traffic.num_ranks},
                           {"steps", steps},
                           {"node_of_rank", topology.node_of_rank},
                           {"sent_bytes", std::move(rows)},
                           {"intra_bytes", bytes[0]},
                           {"inter_bytes", bytes[1]},
                           {"by_collective", std::move(by_collective)}};
  write_file(path, facts.dump() + "\n");
}

}  // namespace weft::tools
