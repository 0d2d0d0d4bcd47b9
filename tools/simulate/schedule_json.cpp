#include "tools/simulate/schedule_json.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/atomic_file.h"

namespace weft::tools {
namespace {

using scheduler::Resource;
using scheduler::TaskId;

std::string stream_name(scheduler::ResourceSet resources) {
  std::string name;
  for (const auto& [resource, text] : {std::pair{Resource::kCompute, "compute"}, std::pair{Resource::kIntra, "intra"},
                                       std::pair{Resource::kInter, "inter"}, std::pair{Resource::kHost, "host"}})
    if (resources.has(resource)) name += (name.empty() ? "" : "+") + std::string(text);
  return name;
}

}  // namespace

void append_tasks(nlohmann::ordered_json& tasks, const scheduler::Graph& graph, const scheduler::Timeline& timeline,
                  std::int64_t first_id, double offset_us, const std::vector<std::int64_t>& after) {
  std::vector<std::set<std::int64_t>> shown(graph.tasks.size());  // what a task stands for among dependencies
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const scheduler::Task& task = graph.tasks[t];
    std::set<std::int64_t> deps;
    for (const TaskId d : graph.dependencies(t)) deps.insert(shown[d].begin(), shown[d].end());
    if (task.resources.empty()) {
      shown[t] = std::move(deps);
      continue;
    }
    shown[t] = {first_id + t};
    if (deps.empty()) deps.insert(after.begin(), after.end());
    tasks.push_back({{"id", first_id + t},
                     {"name", graph.name(t)},
                     {"stage", std::string(to_string(task.stage))},
                     {"stream", stream_name(task.resources)},
                     {"layer", task.layer},
                     {"micro_batch", task.micro_batch},
                     {"sub_batch", task.sub_batch},
                     {"phase", std::string(to_string(task.phase))},
                     {"chunk", task.chunk},
                     {"start_ms", (timeline.start_us[t] + offset_us) / 1e3},
                     {"end_ms", (timeline.end_us[t] + offset_us) / 1e3},
                     {"deps", deps}});
  }
}

void write_schedule(const std::string& path, const std::string& policy, double total_ms, nlohmann::ordered_json tasks) {
  nlohmann::ordered_json document{{"policy", policy}, {"total_ms", total_ms}};
  document["tasks"] = std::move(tasks);
  write_file(path, document.dump(1) + "\n");
}

}  // namespace weft::tools
