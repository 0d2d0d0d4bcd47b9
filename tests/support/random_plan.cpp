#include "tests/support/random_plan.h"

#include <set>
#include <utility>

#include "core/rng.h"

namespace weft::test {

using namespace weft::scheduler;

/// A random program: each task reads some earlier buffers and writes a new or an old one.
Graph random_graph(std::uint64_t seed, int num_tasks, bool host_waits) {
  const Rng rng(seed, RngPurpose::kTest);
  std::uint64_t counter = 0;
  const auto below = [&](std::size_t n) { return static_cast<std::size_t>(rng.below(n, counter++)); };
  GraphBuilder builder;
  std::vector<BufferId> buffers;
  for (int t = 0; t < num_tasks; ++t) {
    std::vector<BufferId> reads, writes;
    for (std::size_t i = below(4); i > 0 && !buffers.empty(); --i) reads.push_back(buffers[below(buffers.size())]);
    if (buffers.empty() || below(3) > 0)
      buffers.push_back(builder.add_buffer(
          {"b", MemoryClass::kActivations, static_cast<std::int64_t>(1 + below(100)), false, false}));
    writes.push_back(below(4) == 0 ? buffers[below(buffers.size())] : buffers.back());
    TaskSpec spec;
    const Resource resources[] = {Resource::kCompute, Resource::kIntra, Resource::kInter};
    spec.resources = {resources[below(3)]};
    if (host_waits && below(8) == 0) spec.resources = {Resource::kHost};
    spec.work = {below(2) == 0 ? WorkKind::kGemm : WorkKind::kMemory, static_cast<double>(below(1000))};
    builder.add_task(spec, reads, writes);
  }
  return builder.take();
}

/// Another linear extension: the ready task with the smallest random key goes next.
std::vector<TaskId> random_order(const Graph& graph, std::uint64_t seed) {
  const Rng rng(seed, RngPurpose::kTest, 1);
  std::vector<int> missing(graph.tasks.size());
  std::vector<std::vector<TaskId>> next(graph.tasks.size());
  std::set<std::pair<double, TaskId>> ready;
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    for (const TaskId d : graph.dependencies(t)) next[d].push_back(t);
    missing[t] = static_cast<int>(graph.dependencies(t).size());
    if (missing[t] == 0) ready.insert({rng.uniform(static_cast<std::uint64_t>(t)), t});
  }
  std::vector<TaskId> order;
  while (!ready.empty()) {
    const TaskId t = ready.begin()->second;
    ready.erase(ready.begin());
    order.push_back(t);
    for (const TaskId n : next[t])
      if (--missing[n] == 0) ready.insert({rng.uniform(static_cast<std::uint64_t>(n)), n});
  }
  return order;
}

}  // namespace weft::test
