// scheduler/graph.h - a training step as plain data: tasks, the buffers they touch, and the edges between them.
// The graph says what must happen; a Plan (scheduler/plan.h) says in which order. Nothing here touches memory, a device
// or a communicator, so the graph of a 1,024-rank job is emitted and simulated on a laptop.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weft::scheduler {

using TaskId = std::int32_t;
using BufferId = std::int32_t;
inline constexpr std::int32_t kNoId = -1;

/// What a task occupies while it runs; two tasks that share one exclude each other in the simulator.
enum class Resource : std::uint8_t { kCompute, kIntra, kInter, kHost };
inline constexpr int kNumResources = 4;

class ResourceSet {
 public:
  constexpr ResourceSet() = default;
  constexpr ResourceSet(std::initializer_list<Resource> resources) {
    for (const Resource r : resources) add(r);
  }
  constexpr void add(Resource r) { bits_ = static_cast<std::uint8_t>(bits_ | (1U << static_cast<unsigned>(r))); }
  [[nodiscard]] constexpr bool has(Resource r) const { return (bits_ >> static_cast<unsigned>(r)) & 1U; }
  [[nodiscard]] constexpr bool empty() const { return bits_ == 0; }
  [[nodiscard]] constexpr std::uint8_t bits() const { return bits_; }
  friend constexpr bool operator==(ResourceSet, ResourceSet) = default;

 private:
  std::uint8_t bits_ = 0;
};

/// Which part of the step a task is. The names are those of reports, profiles and traces.
enum class Stage : std::uint8_t {
  kParameterGather,
  kEmbedding,
  kNorm,
  kMpAllGather,  ///< Rows gathered for tensor-parallel attention.
  kAttention,
  kMpReduceScatter,   ///< And its partial results reduced to the rows' owners.
  kSequenceExchange,  ///< Attention heads for tokens, inside a sequence's head group.
  kSequenceRing,      ///< A hop of keys and values, or of their gradients, around a sequence's ring.
  kDenseFfn,
  kGate,
  kCountExchange,
  kHostWait,  ///< The host learns the counts of routed rows: what comes next is issued with them.
  kOrder,
  kDispatch,
  kAllGather,
  kExpert,
  kReduceScatter,
  kCombine,
  kIOrder,
  kExpertDw,
  kLoss,
  kGradReduce,
  kGradNorm,
  kOptimizer
};
inline constexpr int kNumStages = 24;
[[nodiscard]] std::string_view to_string(Stage stage) noexcept;  ///< "parameter_gather", "dispatch", "expert_dw", ...

enum class Phase : std::uint8_t { kForward, kBackward, kUpdate };
inline constexpr int kNumPhases = 3;
[[nodiscard]] std::string_view to_string(Phase phase) noexcept;

/// What the amount of a task's Work counts, and so which fit of the cost model prices it.
enum class WorkKind : std::uint8_t {
  kNothing,      ///< Free: bookkeeping.
  kGemm,         ///< FLOPs of dense products (2 per multiply-add).
  kGroupedGemm,  ///< FLOPs of the experts.
  kAttention,    ///< FLOPs of the attention core.
  kMemory,       ///< Bytes moved through memory.
  kAllToAll,
  kAllGather,
  kReduceScatter,
  kAllReduce,
  kSendRecv  ///< Bytes this rank puts on the wire, as for all of these.
};
inline constexpr int kNumWorkKinds = 10;
[[nodiscard]] std::string_view to_string(WorkKind kind) noexcept;

struct Work {
  WorkKind kind = WorkKind::kNothing;
  double amount = 0.0;      ///< FLOPs or bytes, by kind.
  double operations = 1.0;  ///< How many launches or messages of one start-up cost each.
};

/// What a buffer's memory is counted as.
enum class MemoryClass : std::uint8_t { kParameters, kGradients, kOptimizer, kActivations, kCommunication, kWorkspace };
inline constexpr int kNumMemoryClasses = 6;
[[nodiscard]] std::string_view to_string(MemoryClass memory) noexcept;

struct BufferSpec {
  const char* label = "";  ///< A literal: what it holds.
  MemoryClass memory = MemoryClass::kActivations;
  /// Bytes, or their bound when `elastic`: a buffer whose size only the routing knows. A step that needs more grows it.
  std::int64_t bytes = 0;
  bool elastic = false;
  /// Lives outside the arena (parameters, gradients, optimizer state): takes part in edges and accounting, not in
  /// slots.
  bool persistent = false;
};

/// Where a task stands in the step. kNoId where a coordinate does not apply.
struct TaskSpec {
  Stage stage = Stage::kNorm;
  Phase phase = Phase::kForward;
  const char* label = "";  ///< A literal: what it does, finer than the stage.
  std::int16_t layer = kNoId;
  std::int16_t micro_batch = kNoId;
  std::int16_t sub_batch = kNoId;
  std::int16_t chunk = kNoId;
  ResourceSet resources = {Resource::kCompute};
  Work work;
};

struct Task : TaskSpec {
  std::int32_t first_access = 0, num_reads = 0, num_writes = 0;  ///< In Graph::accesses: reads, then writes.
  std::int32_t first_dep = 0, num_deps = 0;                      ///< In Graph::deps.
};

/// Tasks in emission order, which is itself a valid order. Flat arrays: a step has tens of thousands of tasks.
struct Graph {
  std::vector<Task> tasks;
  std::vector<BufferSpec> buffers;
  std::vector<BufferId> accesses;
  std::vector<TaskId> deps;

  [[nodiscard]] std::span<const BufferId> reads(TaskId t) const {
    return {accesses.data() + tasks[t].first_access, static_cast<std::size_t>(tasks[t].num_reads)};
  }
  [[nodiscard]] std::span<const BufferId> writes(TaskId t) const {
    return {accesses.data() + tasks[t].first_access + tasks[t].num_reads,
            static_cast<std::size_t>(tasks[t].num_writes)};
  }
  [[nodiscard]] std::span<const TaskId> dependencies(TaskId t) const {
    return {deps.data() + tasks[t].first_dep, static_cast<std::size_t>(tasks[t].num_deps)};
  }
  [[nodiscard]] std::int32_t num_tasks() const noexcept { return static_cast<std::int32_t>(tasks.size()); }
  /// "combine(backward) layer 3 micro-batch 0 chunk 1": for messages and traces.
  [[nodiscard]] std::string name(TaskId t) const;
};

/// Grows a Graph in program order and derives its edges from what tasks read and write: a reader waits for the last
/// writer, a writer for the last writer and all readers since. So accumulations into one buffer keep the order in which
/// they were emitted. An update in place is a write.
class GraphBuilder {
 public:
  [[nodiscard]] BufferId add_buffer(const BufferSpec& spec);
  TaskId add_task(const TaskSpec& spec, std::span<const BufferId> reads, std::span<const BufferId> writes);
  /// A task that touches no buffer and comes after the tasks `after`: for graphs without memory.
  TaskId add_task_after(const TaskSpec& spec, std::span<const TaskId> after);
  [[nodiscard]] const Graph& graph() const noexcept { return graph_; }
  [[nodiscard]] Graph take() { return std::move(graph_); }

 private:
  void depend(TaskId on, std::int32_t first_dep);

  Graph graph_;
  std::vector<TaskId> last_writer_;
  std::vector<std::vector<TaskId>> readers_;  // of each buffer, since its last writer
};

/// Adds edges so that at most `limit` micro-batches are between their first and their last task at any time:
/// micro-batch m starts when m - limit has ended. Tasks outside micro-batches are left alone. limit <= 0: no edges.
void limit_in_flight(Graph& graph, int limit);

}  // namespace weft::scheduler
