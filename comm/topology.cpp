#include "comm/topology.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <string_view>

#include "core/error.h"
#include "core/rng.h"

namespace weft::comm {
namespace {

constexpr std::string_view kVariable = "WEFT_RANKS_PER_NODE";

/// 0 when the variable is not set.
int ranks_per_node_from_environment() {
  const char* value = std::getenv(kVariable.data());
  if (value == nullptr || *value == '\0') return 0;
  const std::string_view text = value;
  int ranks = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ranks);
  if (error != std::errc() || end != text.data() + text.size() || ranks < 1)
    throw Error(ErrorCode::kInvalidArgument, str(kVariable, "=", text, " is not a positive number"),
                "unset it, or give the number of ranks on each node");
  return ranks;
}

std::string boot_id() {
  std::string id;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), id);
  return id;
}

/// Host names alone may repeat (containers); the boot id is the kernel's. Where it is hidden, the name has to do.
std::uint64_t host_id() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return hash_name(std::string(name.data()) + '\n' + boot_id());
}

std::uint64_t machine_id() {
  const std::string id = boot_id();
  return id.empty() ? host_id() : hash_name(id);
}

std::vector<std::uint64_t> gather_ids(Communicator& world, std::uint64_t mine, Stream& stream) {
  std::vector<std::uint64_t> ids(static_cast<std::size_t>(world.size()));
  all_gather(world, {&mine, 1, DType::kI64}, {ids.data(), world.size(), DType::kI64}, stream);
  return ids;
}

}  // namespace

Topology make_topology(const std::vector<std::uint64_t>& node_ids, int rank) {
  WEFT_CHECK(rank >= 0 && static_cast<std::size_t>(rank) < node_ids.size(), "make_topology: rank ", rank, " of ",
             node_ids.size());
  Topology topology;
  std::map<std::uint64_t, int> nodes;
  for (const std::uint64_t id : node_ids)
    topology.node_of_rank.push_back(nodes.try_emplace(id, static_cast<int>(nodes.size())).first->second);
  const auto& node_of = topology.node_of_rank;
  topology.num_nodes = static_cast<int>(nodes.size());
  topology.node_index = node_of[static_cast<std::size_t>(rank)];
  topology.local_rank = static_cast<int>(std::count(node_of.begin(), node_of.begin() + rank, topology.node_index));
  topology.local_size = static_cast<int>(std::count(node_of.begin(), node_of.end(), topology.node_index));
  return topology;
}

Topology find_topology(Communicator& world, Stream& stream) {
  // An error of one rank alone would leave the others waiting: all learn of it, then all throw.
  std::int64_t ranks_per_node = -1;
  std::string problem;
  try {
    ranks_per_node = ranks_per_node_from_environment();
  } catch (const Error& e) {
    problem = e.message();
  }
  std::array<std::int64_t, 2> range{ranks_per_node, -ranks_per_node};  // one kMax gives both ends
  world.all_reduce(as_buffer(range.data(), 2), as_buffer(range.data(), 2), ReduceOp::kMax, stream);
  if (!problem.empty() || range[0] != -range[1] || range[0] < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                problem.empty() ? str(kVariable, " differs between ranks, or is wrong on one") : problem,
                "unset it, or give all ranks the same positive number");
  }
  const std::uint64_t mine = ranks_per_node > 0 ? static_cast<std::uint64_t>(world.rank() / ranks_per_node) : host_id();
  return make_topology(gather_ids(world, mine, stream), world.rank());
}

int ranks_of_each_node(const Topology& topology) {
  const auto& node_of = topology.node_of_rank;
  const auto size = static_cast<int>(std::count(node_of.begin(), node_of.end(), 0));
  for (int rank = 0; rank < std::ssize(node_of); ++rank)
    if (node_of[static_cast<std::size_t>(rank)] != rank / size || std::ssize(node_of) % size != 0)
      throw Error(ErrorCode::kInvalidArgument,
                  str("the ", node_of.size(), " ranks do not fill their ", topology.num_nodes,
                      " nodes evenly, one node after the other: rank ", rank, " is on node ",
                      node_of[static_cast<std::size_t>(rank)], ", node 0 has ", size, " ranks"),
                  "start as many ranks on every node, in order: mpirun --map-by ppr:N:node");
  return size;
}

int ranks_on_machine(Communicator& world, Stream& stream) {
  const std::uint64_t mine = machine_id();
  const std::vector<std::uint64_t> ids = gather_ids(world, mine, stream);
  return static_cast<int>(std::count(ids.begin(), ids.end(), mine));
}

int place_on_machine(Communicator& world, Stream& stream) {
  const std::uint64_t mine = machine_id();
  const std::vector<std::uint64_t> ids = gather_ids(world, mine, stream);
  return static_cast<int>(std::count(ids.begin(), ids.begin() + world.rank(), mine));
}

}  // namespace weft::comm
