// parallel/mesh.h - who does what: the ranks of the job as attention ranks and as expert ranks.
// Source: parallel folding, arXiv:2504.14960: attention (data parallel) and experts are laid over the same world
// independently. Attention ranks form DP; expert ranks form EDP x EP, EP fastest: consecutive ranks share one set of
// experts.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace weft::parallel {

struct Mesh {
  int world_size = 1;
  int world_rank = 0;
  int ep_size = 1;         ///< EP: ranks that share one set of experts.
  int ranks_per_node = 1;  ///< Consecutive ranks on one node.

  [[nodiscard]] int dp_size() const { return world_size; }
  [[nodiscard]] int dp_rank() const { return world_rank; }
  [[nodiscard]] int ep_rank() const { return world_rank % ep_size; }
  [[nodiscard]] int edp_size() const { return world_size / ep_size; }  ///< Replicas of each expert.
  [[nodiscard]] int edp_rank() const { return world_rank / ep_size; }
  [[nodiscard]] int num_local_experts(int num_experts) const { return num_experts / ep_size; }
  [[nodiscard]] int first_local_expert(int num_experts) const { return ep_rank() * num_local_experts(num_experts); }
  /// True when a group of `size` ranks, every `stride`-th from some rank on, reaches beyond one node.
  [[nodiscard]] bool crosses_nodes(int size, int stride) const { return (size - 1) * stride + 1 > ranks_per_node; }
  friend bool operator==(const Mesh&, const Mesh&) = default;
};

/// Throws kInvalidArgument when `ep_size` does not divide the world.
[[nodiscard]] Mesh make_mesh(int world_size, int world_rank, int ep_size, int ranks_per_node);

/// The communicators of a mesh, all made and used once at construction, in one fixed order on every rank: none is made
/// or connected lazily, so that start-up finds what a step would trip over.
class MeshComms {
 public:
  /// `world` outlives this object.
  MeshComms(comm::Communicator& world, const Mesh& mesh);

  [[nodiscard]] comm::Communicator& world() const noexcept { return *world_; }
  [[nodiscard]] comm::Communicator& ep() const noexcept { return *ep_; }    ///< Size EP: dispatch and combine.
  [[nodiscard]] comm::Communicator& edp() const noexcept { return *edp_; }  ///< Size EDP: expert gradients.

 private:
  comm::Communicator* world_;
  std::unique_ptr<comm::Communicator> ep_, edp_;
};

}  // namespace weft::parallel
