#include "scheduler/timeline.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace weft::scheduler {
namespace {

bool moves_data(ResourceSet held) { return held.has(Resource::kIntra) || held.has(Resource::kInter); }

}  // namespace

double exposed_comm_us(const Graph& graph, const Timeline& timeline) {
  struct Change {
    double at;
    int compute, comm;  // +1 a task of that kind starts, -1 it ends
  };
  std::vector<Change> changes;
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const ResourceSet held = graph.tasks[t].resources;
    const int compute = held.has(Resource::kCompute) ? 1 : 0, comm = compute == 0 && moves_data(held) ? 1 : 0;
    changes.push_back({timeline.start_us[t], compute, comm});
    changes.push_back({timeline.end_us[t], -compute, -comm});
  }
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.at < b.at; });
  double exposed = 0.0, before = 0.0;
  int compute = 0, comm = 0;
  for (const Change& change : changes) {
    if (comm > 0 && compute == 0) exposed += change.at - before;
    before = change.at;
    compute += change.compute;
    comm += change.comm;
  }
  return exposed;
}

StreamUse stream_use(const Graph& graph, const Timeline& timeline) {
  std::vector<std::pair<double, double>> ran;
  for (TaskId t = 0; t < graph.num_tasks(); ++t)
    if (!graph.tasks[t].resources.has(Resource::kHost)) ran.emplace_back(timeline.start_us[t], timeline.end_us[t]);
  if (ran.empty()) return {};
  std::sort(ran.begin(), ran.end());
  StreamUse out;
  double end = ran.front().first;
  for (const auto& [start_us, end_us] : ran) {
    out.idle_us += std::max(0.0, start_us - end);
    end = std::max(end, end_us);
  }
  out.span_us = end - ran.front().first;
  return out;
}

std::array<std::array<double, 3>, 3> overlap_us(const Graph& graph, const Timeline& timeline) {
  constexpr std::array kStreams{Resource::kCompute, Resource::kIntra, Resource::kInter};
  struct Change {
    double at;
    TaskId task;
    int by;  // +1 it starts, -1 it ends
  };
  std::vector<Change> changes;
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    changes.push_back({timeline.start_us[t], t, 1});
    changes.push_back({timeline.end_us[t], t, -1});
  }
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) { return a.at < b.at; });
  std::array<std::array<double, 3>, 3> out{};
  std::array<std::array<int, 3>, 3> running{};  // tasks that hold both; on the diagonal, that hold the one
  double before = 0.0;
  for (const Change& change : changes) {
    for (std::size_t a = 0; a < 3; ++a)
      for (std::size_t b = 0; b < 3; ++b) {
        const int tasks = running[a][a] + running[b][b] - running[a][b];
        if (running[a][a] > 0 && running[b][b] > 0 && (a == b || tasks > 1)) out[a][b] += change.at - before;
      }
    before = change.at;
    const ResourceSet held = graph.tasks[change.task].resources;
    for (std::size_t a = 0; a < 3; ++a)
      for (std::size_t b = 0; b < 3; ++b)
        if (held.has(kStreams[a]) && held.has(kStreams[b])) running[a][b] += change.by;
  }
  return out;
}

std::array<double, kNumStages> exposed_stage_us(const Graph& graph, const Timeline& timeline) {
  std::vector<std::pair<double, double>> compute;  // intervals, by start
  for (TaskId t = 0; t < graph.num_tasks(); ++t)
    if (graph.tasks[t].resources.has(Resource::kCompute) && timeline.end_us[t] > timeline.start_us[t])
      compute.emplace_back(timeline.start_us[t], timeline.end_us[t]);
  std::sort(compute.begin(), compute.end());
  std::vector<std::pair<double, double>> busy;  // joined
  for (const auto& [start, end] : compute) {
    if (!busy.empty() && start <= busy.back().second)
      busy.back().second = std::max(busy.back().second, end);
    else
      busy.emplace_back(start, end);
  }
  std::array<double, kNumStages> out{};
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const ResourceSet resources = graph.tasks[t].resources;
    if (resources.has(Resource::kCompute) || !moves_data(resources)) continue;
    const double start = timeline.start_us[t], end = timeline.end_us[t];
    double exposed = end - start;
    auto at = std::upper_bound(busy.begin(), busy.end(), std::pair(start, start),
                               [](const auto& a, const auto& b) { return a.first < b.second; });
    for (; at != busy.end() && at->first < end; ++at)
      exposed -= std::max(0.0, std::min(end, at->second) - std::max(start, at->first));
    out[static_cast<std::size_t>(graph.tasks[t].stage)] += std::max(0.0, exposed);
  }
  return out;
}

}  // namespace weft::scheduler
