// comm/topology.h - which ranks share a node, so that groups can be laid inside nodes and costs told apart.
#pragma once

#include <vector>

#include "comm/communicator.h"

namespace weft::comm {

/// Nodes are numbered by their lowest rank; local ranks by rank.
struct Topology {
  std::vector<int> node_of_rank;  ///< [P]
  int num_nodes = 1;
  int node_index = 0;  ///< Of this rank.
  int local_rank = 0;  ///< Of this rank, in [0, local_size).
  int local_size = 1;  ///< Ranks on this rank's node.
  friend bool operator==(const Topology&, const Topology&) = default;

  [[nodiscard]] bool same_node(int rank_a, int rank_b) const {
    return node_of_rank[static_cast<std::size_t>(rank_a)] == node_of_rank[static_cast<std::size_t>(rank_b)];
  }
};

/// Collective over `world`: ranks with the same host name and the same boot of it share a node. The environment
/// variable WEFT_RANKS_PER_NODE = n, the same on all ranks, puts ranks [0, n), [n, 2n), ... on nodes of their own
/// instead: for trying a layout on one machine. Throws Error{kInvalidArgument} when it is no positive number or differs
/// between ranks.
[[nodiscard]] Topology find_topology(Communicator& world, Stream& stream);

/// Ranks of a node, where every node has as many and each node's are consecutive, as a mesh of ranks is laid out: the
/// same on every rank. Throws Error{kInvalidArgument} where it is otherwise, with what to start the job with.
[[nodiscard]] int ranks_of_each_node(const Topology& topology);

/// Collective over `world`: its ranks that share this rank's machine (one running kernel), whatever nodes they count
/// as.
[[nodiscard]] int ranks_on_machine(Communicator& world, Stream& stream);
/// Collective over `world`: the place of this rank among them, in order of rank.
[[nodiscard]] int place_on_machine(Communicator& world, Stream& stream);

/// The same from one node id per rank; ids need not be dense. `rank` in [0, P).
[[nodiscard]] Topology make_topology(const std::vector<std::uint64_t>& node_ids, int rank);

}  // namespace weft::comm
