// scheduler/plan.h - Plan = Shape + issue order: plain data, saved with the run and checked by digest.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/graph.h"

namespace weft::scheduler {

/// What a layer keeps of its forward pass. kNone: everything its backward needs. kSelective: what costs a GEMM, a
/// collective or attention; norms and activations are computed again. kFull: the layer's input alone; its whole forward
/// runs again.
enum class Recompute : std::uint8_t { kNone, kSelective, kFull };
[[nodiscard]] std::string_view to_string(Recompute recompute) noexcept;

/// How one layer is cut. A chunk is a range of the tokens of a sub-batch: r equal ranges (up to rounding).
struct LayerShape {
  int forward_chunks = 1;   ///< r of dispatch, experts and combine, forward.
  int backward_chunks = 1;  ///< The same, backward.
  /// Expert dW: 0: inside the backward's expert tasks; p: p tasks of their own (at most one per backward chunk), each
  /// of consecutive chunks.
  int weight_grad_pieces = 0;
  Recompute recompute = Recompute::kNone;
  /// How the layer's gradient reductions are cut: shares that sum to 1, in order. Empty: one piece.
  std::vector<double> gradient_shares;
  friend bool operator==(const LayerShape&, const LayerShape&) = default;
};

/// What the graph looks like. Equal Shapes give equal bits, in any issue order and executor.
struct Shape {
  std::vector<LayerShape> layers;
  /// Pieces of each micro-batch, cut between routing groups. The last entry holds for all later micro-batches;
  /// empty: 1.
  std::vector<int> sub_batches;
  /// Micro-batches between their first forward and their last backward task at any time; 0: no limit but memory.
  int micro_batches_in_flight = 0;
  /// Stream of each Resource: those of one stream run one after the other, whatever they occupy. {0, 0, 0, 0}: nothing
  /// overlaps; {0, 1, 1, 2}: one stream for all communication.
  std::array<std::uint8_t, kNumResources> stream_of_resource{0, 1, 2, 3};
  /// Rows that a rank's experts are given room for, over the mean. More than that grows the buffer, counted and logged.
  double imbalance_limit = 2.0;
  /// Rows of MoE layers with capacities travel padded to them: more bytes and computation, but nobody exchanges or
  /// waits for counts.
  bool padded = false;
  friend bool operator==(const Shape&, const Shape&) = default;
};

/// For each ResourceSet, by its bits: everything that must not run beside a task that occupies it, which is the set and
/// all that shares its streams. Tasks of one such set share a stream.
using StreamSets = std::array<ResourceSet, 1U << kNumResources>;
[[nodiscard]] StreamSets stream_sets(const Shape& shape) noexcept;
/// True when all resources share one stream: such a plan runs on one thread, task after task.
[[nodiscard]] bool has_one_stream(const Shape& shape) noexcept;

[[nodiscard]] inline int sub_batches_of(const Shape& shape, int micro_batch) {
  if (shape.sub_batches.empty()) return 1;
  return shape.sub_batches[std::min(static_cast<std::size_t>(micro_batch), shape.sub_batches.size() - 1)];
}

struct Plan {
  std::string policy;
  Shape shape;
  std::vector<TaskId> issue_order;  ///< A linear extension of all edges, the same on every rank.
  /// Places in the order that a slot rests before a task of another stream takes it over; 0: it is taken over at once.
  /// A slot that is taken over early ties two streams together: the next chunk's transfer waits for the computation on
  /// this one's. One that rests is memory.
  std::int32_t slot_rest = 0;
  /// What it was made for, "world_size = 4" and the like: shown when it does not fit. Not part of the digest.
  std::vector<std::string> made_for{};
  /// Bytes of one rank's step that it was planned under (0: no limit), and that the fullest rank takes as simulated (0:
  /// not worked out yet). What a job checks is its own peak, so they are not part of the digest either.
  std::int64_t memory_limit_bytes = 0;
  std::int64_t peak_memory_bytes = 0;
};

/// A plan as numbers, to send it to other ranks, and back. unpack throws kInternal for numbers that are no plan.
[[nodiscard]] std::vector<std::int64_t> pack(const Plan& plan);
[[nodiscard]] Plan unpack(std::span<const std::int64_t> numbers);

/// Boundaries of the pieces of a gradient reduction as fractions: 0, share, share + share, ..., 1.
[[nodiscard]] std::vector<double> gradient_cuts(const LayerShape& layer);
/// First chunk of each piece of deferred dW, and the number of chunks at the end: p + 1 entries, piece i is
/// [cuts[i], cuts[i + 1]). Empty when dW is not deferred.
[[nodiscard]] std::vector<int> weight_grad_cuts(int backward_chunks, int pieces);

/// A fingerprint of shape and order; every rank of a job must have the same.
[[nodiscard]] std::uint64_t digest(const Plan& plan) noexcept;

/// Where the arena's buffers lie. Two buffers may share a slot when one is dead before the other is first written, in
/// issue order; `reuse_edges` (from, to) then keep that true in any executor that follows them.
struct SlotMap {
  std::vector<std::int32_t> slot_of_buffer;  ///< [buffers]; kNoId: persistent or never used.
  std::vector<std::int64_t> slot_bytes;      ///< [slots]
  struct Edge {
    TaskId from, to;
  };
  std::vector<Edge> reuse_edges;
};
/// Linear in tasks, edges and streams.
[[nodiscard]] SlotMap assign_slots(const Graph& graph, const Plan& plan);

/// Bytes by MemoryClass: persistent buffers in full, plus the slots, each counted as the class of its largest buffer.
struct MemoryUse {
  std::int64_t bytes[kNumMemoryClasses] = {};
  [[nodiscard]] std::int64_t total() const;
};
[[nodiscard]] MemoryUse memory_use(const Graph& graph, const SlotMap& slots);

/// Every problem of a plan for `graph`: an order that is no permutation, edges it breaks (with the tasks' names).
/// Empty: fit to run.
[[nodiscard]] std::vector<std::string> validate(const Graph& graph, const Plan& plan);

}  // namespace weft::scheduler
