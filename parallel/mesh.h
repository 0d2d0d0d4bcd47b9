// parallel/mesh.h - who does what: the ranks of the job as attention ranks and as expert ranks.
// Source: parallel folding, arXiv:2504.14960: attention and experts are laid over the same world independently.
// Attention ranks form DP x SP, SP = ring x heads, heads fastest: consecutive ranks exchange heads (arXiv:2309.14509),
// groups of them form the ring (arXiv:2310.01889). Expert ranks form EDP x EP x ESP, ESP fastest: consecutive ranks
// hold slices of the same experts, as in FSMoE (arXiv:2501.10714, section 2.2).
#pragma once

#include <algorithm>
#include <memory>

#include "comm/communicator.h"
#include "comm/for_device.h"
#include "parallel/attention/layout.h"

namespace weft::parallel {

/// Sizes of the groups; each divides what it splits.
struct MeshOptions {
  int ep_size = 1;         ///< EP: ranks (or ESP groups) that share one set of experts.
  int esp_size = 1;        ///< ESP: ranks that share the hidden width of one expert.
  int sequence_heads = 1;  ///< Ranks that share a sequence and exchange attention heads for tokens.
  int sequence_ring = 1;   ///< Ranks (or head groups) that share a sequence and pass keys and values around a ring.
  int ranks_per_node = 1;  ///< Consecutive ranks on one node.
  friend bool operator==(const MeshOptions&, const MeshOptions&) = default;
};

struct Mesh : MeshOptions {
  int world_size = 1;
  int world_rank = 0;

  [[nodiscard]] int sp_size() const { return sequence_heads * sequence_ring; }  ///< Ranks that share a sequence.
  [[nodiscard]] int sp_rank() const { return world_rank % sp_size(); }
  [[nodiscard]] int head_rank() const { return world_rank % sequence_heads; }
  [[nodiscard]] int ring_rank() const { return sp_rank() / sequence_heads; }
  [[nodiscard]] SequenceGroup sequence_group() const { return {sequence_ring, sequence_heads}; }
  [[nodiscard]] int dp_size() const { return world_size / sp_size(); }  ///< Groups that hold different sequences.
  [[nodiscard]] int dp_rank() const { return world_rank / sp_size(); }

  [[nodiscard]] int esp_rank() const { return world_rank % esp_size; }
  [[nodiscard]] int ep_rank() const { return world_rank / esp_size % ep_size; }
  [[nodiscard]] int edp_size() const { return world_size / (ep_size * esp_size); }  ///< Replicas of each expert slice.
  [[nodiscard]] int edp_rank() const { return world_rank / (ep_size * esp_size); }
  /// Ranks of an EP group that share a node, where the group lies evenly on its nodes.
  [[nodiscard]] int ep_lanes() const { return std::clamp(ranks_per_node / esp_size, 1, ep_size); }
  [[nodiscard]] int num_local_experts(int num_experts) const { return num_experts / ep_size; }
  [[nodiscard]] int first_local_expert(int num_experts) const { return ep_rank() * num_local_experts(num_experts); }
  /// True when a group of `size` ranks, every `stride`-th from some rank on, reaches beyond one node.
  [[nodiscard]] bool crosses_nodes(int size, int stride) const { return (size - 1) * stride + 1 > ranks_per_node; }
  friend bool operator==(const Mesh&, const Mesh&) = default;
};

/// Throws kInvalidArgument, naming the config field, when EP * ESP or SP do not divide the world.
[[nodiscard]] Mesh make_mesh(int world_size, int world_rank, const MeshOptions& options);

/// buffer = the sum over the group's ranks, in place; nothing to do for a group of one.
void sum_in_place(comm::Communicator& group, comm::Buffer buffer, Stream& stream);

/// The communicators of a mesh, all made and used once at construction, in one fixed order on every rank: none is made
/// or connected lazily, so that start-up finds what a step would trip over.
class MeshComms {
 public:
  /// world: over memory of the host; it outlives this object. The groups are over memory of `device`, with `ctas` where
  /// NCCL carries them.
  MeshComms(comm::Communicator& world, const Mesh& mesh, Device device = {}, const comm::CtaBudgets& ctas = {});

  [[nodiscard]] comm::Communicator& world() const noexcept { return *world_; }
  /// All ranks over memory of the host, whatever the device: for what the host agrees on outside of steps.
  [[nodiscard]] comm::Communicator& host_world() const noexcept { return *host_world_; }
  [[nodiscard]] comm::Communicator& ep() const noexcept { return *ep_; }  ///< Size EP: dispatch and combine.
  /// The EP group's ranks on this rank's node, and its ranks with this one's place on every node: hierarchical
  /// dispatch.
  [[nodiscard]] comm::Communicator& ep_inside() const noexcept { return *ep_inside_; }
  [[nodiscard]] comm::Communicator& ep_across() const noexcept { return *ep_across_; }
  [[nodiscard]] comm::Communicator& esp() const noexcept { return *esp_; }  ///< Size ESP: gather and reduce rows.
  /// Size EP * ESP, in order of (esp_rank, ep_rank): who holds one whole set of experts; exchanges row counts.
  [[nodiscard]] comm::Communicator& experts() const noexcept { return *experts_; }
  [[nodiscard]] comm::Communicator& edp() const noexcept { return *edp_; }      ///< Size EDP: expert gradients.
  [[nodiscard]] comm::Communicator& sp() const noexcept { return *sp_; }        ///< Size SP: one sequence.
  [[nodiscard]] comm::Communicator& heads() const noexcept { return *heads_; }  ///< Head exchange, by head_rank().
  [[nodiscard]] comm::Communicator& ring() const noexcept { return *ring_; }    ///< Key and value ring, by ring_rank().

 private:
  comm::Communicator* host_world_;
  std::unique_ptr<comm::Communicator> device_world_;  // null on the CPU
  comm::Communicator* world_;
  std::unique_ptr<comm::Communicator> ep_, ep_inside_, ep_across_, esp_, experts_, edp_, sp_, heads_, ring_;
};

}  // namespace weft::parallel
