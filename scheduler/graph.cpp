#include "scheduler/graph.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace weft::scheduler {
namespace {

constexpr std::array<std::string_view, kNumStages> kStageNames{"parameter_gather",
                                                               "embedding",
                                                               "norm",
                                                               "mp_all_gather",
                                                               "attention",
                                                               "mp_reduce_scatter",
                                                               "sequence_exchange",
                                                               "sequence_ring",
                                                               "dense_ffn",
                                                               "gate",
                                                               "count_exchange",
                                                               "host_wait",
                                                               "order",
                                                               "dispatch",
                                                               "all_gather",
                                                               "expert",
                                                               "reduce_scatter",
                                                               "combine",
                                                               "i_order",
                                                               "expert_dw",
                                                               "loss",
                                                               "grad_reduce",
                                                               "grad_norm",
                                                               "optimizer"};
constexpr std::array<std::string_view, kNumPhases> kPhaseNames{"forward", "backward", "update"};
constexpr std::array<std::string_view, kNumWorkKinds> kWorkNames{
    "nothing",    "gemm",       "grouped_gemm",   "attention",  "memory",
    "all_to_all", "all_gather", "reduce_scatter", "all_reduce", "send_recv"};
constexpr std::array<std::string_view, kNumMemoryClasses> kMemoryNames{"parameters",  "gradients",     "optimizer",
                                                                       "activations", "communication", "workspace"};

}  // namespace

std::string_view to_string(Stage stage) noexcept { return kStageNames[static_cast<std::size_t>(stage)]; }
std::string_view to_string(Phase phase) noexcept { return kPhaseNames[static_cast<std::size_t>(phase)]; }
std::string_view to_string(WorkKind kind) noexcept { return kWorkNames[static_cast<std::size_t>(kind)]; }
std::string_view to_string(MemoryClass memory) noexcept { return kMemoryNames[static_cast<std::size_t>(memory)]; }

std::string Graph::name(TaskId t) const {
  const Task& task = tasks[t];
  std::string out = str(to_string(task.stage), "(", to_string(task.phase), ")");
  if (*task.label != '\0') out += str(" ", task.label);
  if (task.layer != kNoId) out += str(" layer ", task.layer);
  if (task.micro_batch != kNoId) out += str(" micro-batch ", task.micro_batch);
  if (task.sub_batch > 0) out += str(" sub-batch ", task.sub_batch);
  if (task.chunk != kNoId) out += str(" chunk ", task.chunk);
  return out;
}

void limit_in_flight(Graph& graph, int limit) {
  if (limit <= 0) return;
  const auto n = static_cast<std::size_t>(graph.num_tasks());
  std::vector<bool> first(n, true), last(n, true);  // of the tasks of its micro-batch
  int num_micro_batches = 0;
  for (std::size_t t = 0; t < n; ++t) {
    num_micro_batches = std::max(num_micro_batches, graph.tasks[t].micro_batch + 1);
    for (const TaskId d : graph.dependencies(static_cast<TaskId>(t)))
      if (graph.tasks[d].micro_batch == graph.tasks[t].micro_batch) {
        first[t] = false;
        last[d] = false;
      }
  }
  std::vector<std::vector<TaskId>> ends(static_cast<std::size_t>(num_micro_batches));
  for (std::size_t t = 0; t < n; ++t)
    if (last[t] && graph.tasks[t].micro_batch >= 0) ends[graph.tasks[t].micro_batch].push_back(static_cast<TaskId>(t));
  std::vector<TaskId> deps;
  for (std::size_t t = 0; t < n; ++t) {
    Task& task = graph.tasks[t];
    const auto own = graph.dependencies(static_cast<TaskId>(t));
    const auto begin = static_cast<std::int32_t>(deps.size());
    deps.insert(deps.end(), own.begin(), own.end());
    if (first[t] && task.micro_batch >= limit) {
      const std::vector<TaskId>& before = ends[task.micro_batch - limit];
      deps.insert(deps.end(), before.begin(), before.end());
    }
    task.first_dep = begin;
    task.num_deps = static_cast<std::int32_t>(deps.size()) - begin;
  }
  graph.deps = std::move(deps);
}

BufferId GraphBuilder::add_buffer(const BufferSpec& spec) {
  graph_.buffers.push_back(spec);
  last_writer_.push_back(kNoId);
  readers_.emplace_back();
  return static_cast<BufferId>(graph_.buffers.size() - 1);
}

void GraphBuilder::depend(TaskId on, std::int32_t first_dep) {
  if (on == kNoId) return;
  const auto begin = graph_.deps.begin() + first_dep;
  if (std::find(begin, graph_.deps.end(), on) == graph_.deps.end()) graph_.deps.push_back(on);
}

TaskId GraphBuilder::add_task(const TaskSpec& spec, std::span<const BufferId> reads, std::span<const BufferId> writes) {
  Task task;
  static_cast<TaskSpec&>(task) = spec;
  const auto id = static_cast<TaskId>(graph_.tasks.size());
  task.first_access = static_cast<std::int32_t>(graph_.accesses.size());
  task.num_reads = static_cast<std::int32_t>(reads.size());
  task.num_writes = static_cast<std::int32_t>(writes.size());
  graph_.accesses.insert(graph_.accesses.end(), reads.begin(), reads.end());
  graph_.accesses.insert(graph_.accesses.end(), writes.begin(), writes.end());

  task.first_dep = static_cast<std::int32_t>(graph_.deps.size());
  for (const BufferId b : reads) depend(last_writer_[b], task.first_dep);
  for (const BufferId b : writes) {
    depend(last_writer_[b], task.first_dep);
    for (const TaskId reader : readers_[b]) depend(reader, task.first_dep);
  }
  task.num_deps = static_cast<std::int32_t>(graph_.deps.size()) - task.first_dep;
  for (const BufferId b : reads) readers_[b].push_back(id);
  for (const BufferId b : writes) {
    last_writer_[b] = id;
    readers_[b].clear();
  }
  graph_.tasks.push_back(task);
  return id;
}

TaskId GraphBuilder::add_task_after(const TaskSpec& spec, std::span<const TaskId> after) {
  Task task;
  static_cast<TaskSpec&>(task) = spec;
  task.first_access = static_cast<std::int32_t>(graph_.accesses.size());
  task.first_dep = static_cast<std::int32_t>(graph_.deps.size());
  task.num_deps = static_cast<std::int32_t>(after.size());
  graph_.deps.insert(graph_.deps.end(), after.begin(), after.end());
  graph_.tasks.push_back(task);
  return static_cast<TaskId>(graph_.tasks.size() - 1);
}

}  // namespace weft::scheduler
