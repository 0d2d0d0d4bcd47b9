// parallel/moe/dispatch.h - Dispatch: rows from send order on their tokens' ranks to gathered order on their experts'
// ranks; Combine: the way back. Interfaces; implementations by Dispatcher. Each is a list of hops, and each hop is a
// task with resources of its own, so that the scheduler can overlap them. The backward of a dispatch is a combine.
// Letters: P ranks of the EP group, ESP ranks that share an expert, m ranks of an EP group on one node, M width.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/stream.h"
#include "parallel/mesh.h"
#include "parallel/model/model_config.h"
#include "parallel/moe/dispatch_plan.h"
#include "scheduler/graph.h"

namespace weft::parallel {

/// What a hop is to the scheduler. Rows are counted in multiples of what one rank's chunk sends.
struct HopInfo {
  scheduler::Stage stage = scheduler::Stage::kDispatch;
  const char* label = "";
  scheduler::ResourceSet resources;
  scheduler::WorkKind kind = scheduler::WorkKind::kAllToAll;
  double wire_rows = 0.0;        ///< Rows that a rank puts on the wire, on average.
  double operations = 1.0;       ///< Start-ups: messages that wait for one another.
  double mean_rows = 1.0;        ///< Rows behind the hop, on average over ranks (a leader: its own average).
  double most_rows = 1.0;        ///< The same at most.
  std::int64_t most_shards = 0;  ///< Ranks whose experts' rows are there at most: bounds by capacity; 0: no such bound.
};

template <class T>
class Hop {
 public:
  explicit Hop(const HopInfo& info) : info_(info) {}
  virtual ~Hop() = default;
  Hop(const Hop&) = delete;
  Hop& operator=(const Hop&) = delete;
  [[nodiscard]] const HopInfo& info() const noexcept { return info_; }
  [[nodiscard]] virtual std::int64_t rows_in(const ChunkRows& rows) const = 0;
  [[nodiscard]] virtual std::int64_t rows_out(const ChunkRows& rows) const = 0;
  /// to: [rows_out, width] from from: [rows_in, width]. Collective over the hop's group.
  virtual void run(Stream& stream, const MeshComms& comms, const ChunkRows& rows, T* to, const T* from,
                   std::int64_t width) const = 0;

 private:
  HopInfo info_;
};
template <class T>
using Hops = std::vector<std::shared_ptr<const Hop<T>>>;  // shared with the closures of a step

template <class T>
class Dispatch {
 public:
  virtual ~Dispatch() = default;
  [[nodiscard]] virtual Hops<T> hops() const = 0;  ///< Send order to gathered order; none on one rank.
};
template <class T>
class Combine {
 public:
  virtual ~Combine() = default;
  [[nodiscard]] virtual Hops<T> hops() const = 0;  ///< Gathered order to send order; ESP peers' rows are added up.
};

/// Throws kInvalidArgument for a hierarchical dispatcher whose EP group does not lie evenly on its nodes.
template <class T>
[[nodiscard]] std::unique_ptr<Dispatch<T>> make_dispatch(DispatcherKind kind, const Mesh& mesh);
template <class T>
[[nodiscard]] std::unique_ptr<Combine<T>> make_combine(DispatcherKind kind, const Mesh& mesh);

/// Whether the dispatcher needs the counts of all pairs of the group (ChunkRows::pair_rows), not of its own alone.
[[nodiscard]] bool needs_pair_counts(DispatcherKind kind, const Mesh& mesh);

}  // namespace weft::parallel
