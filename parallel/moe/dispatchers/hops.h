// parallel/moe/dispatchers/hops.h - what the dispatchers are put together from.
#pragma once

#include "parallel/moe/dispatch.h"

namespace weft::parallel {

enum class Direction : std::uint8_t { kToExperts, kFromExperts };

/// How the EP group of this rank lies on nodes: `nodes` nodes with `lanes` ranks each, EP rank = node * lanes + lane.
struct EpNodes {
  int nodes = 1, lanes = 1;
  int node = 0, lane = 0;  ///< Of this rank.
};
/// Throws kInvalidArgument when the group lies unevenly on its nodes.
[[nodiscard]] EpNodes ep_nodes(const Mesh& mesh);

/// One all-to-all-v over the EP group.
template <class T>
[[nodiscard]] Hops<T> flat_hops(const Mesh& mesh, Direction direction);
/// Leaders: gather, exchange, scatter. Source: HetuMoE, arXiv:2203.14685, section 3.
template <class T>
[[nodiscard]] Hops<T> leader_hops(const Mesh& mesh, Direction direction);
/// All-to-all inside the node, then between ranks of equal lane. Source: Tutel, arXiv:2206.03382, section 4.3;
/// DeepSpeed-MoE, arXiv:2201.05596, section 5.3.
template <class T>
[[nodiscard]] Hops<T> lane_hops(const Mesh& mesh, Direction direction);
/// The all-gather-v or reduce-scatter-v over the ESP ranks.
template <class T>
[[nodiscard]] Hops<T> shard_hops(const Mesh& mesh, Direction direction);
/// Between Order and dispatch, and between combine and I-Order, of slots that the SP ranks of `mesh` share; `links` are
/// those of these ranks.
template <class T>
[[nodiscard]] std::shared_ptr<const Hop<T>> shared_slot_hop(const Mesh& mesh, int experts, Direction direction,
                                                            const scheduler::ResourceSet& links);

}  // namespace weft::parallel
