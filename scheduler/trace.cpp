#include "scheduler/trace.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/error.h"

namespace weft::scheduler {
namespace {

std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

/// Nanosecond steps: more would be noise, and would differ in its last digits.
std::string micros(double us) {
  char text[48];
  std::snprintf(text, sizeof text, "%.3f", us);
  return text;
}

std::string number(double value) {
  char text[48];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

class Writer {
 public:
  void event(const std::string& text) {
    out_ += (first_ ? "\n" : ",\n") + text;
    first_ = false;
  }
  std::string finish() { return "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [" + out_ + "\n]}\n"; }

 private:
  std::string out_;
  bool first_ = true;
};

std::string arguments(const Task& task, TaskId id) {
  std::string out = str("{\"task\": ", id, ", \"stage\": \"", to_string(task.stage), "\", \"phase\": \"",
                        to_string(task.phase), "\"");
  for (const auto& [key, value] : {std::pair{"layer", task.layer}, std::pair{"micro_batch", task.micro_batch},
                                   std::pair{"sub_batch", task.sub_batch}, std::pair{"chunk", task.chunk}})
    if (value != kNoId) out += str(", \"", key, "\": ", value);
  if (task.work.kind != WorkKind::kNothing)
    out += str(", \"work\": \"", to_string(task.work.kind), "\", \"amount\": ", number(task.work.amount),
               ", \"operations\": ", number(task.work.operations));
  return out + "}";
}

/// Slices and arrows of one timeline; `flow` numbers the arrows of the whole file.
void add_process(const TraceProcess& process, int pid, std::int64_t& flow, Writer& out) {
  const Graph& graph = *process.graph;
  const Timeline& time = *process.timeline;
  WEFT_CHECK(time.start_us.size() == graph.tasks.size() && time.end_us.size() == graph.tasks.size(),
             "trace: ", time.start_us.size(), " times for ", graph.tasks.size(), " tasks");
  out.event(str("{\"ph\": \"M\", \"name\": \"process_name\", \"pid\": ", pid,
                ", \"args\": {\"name\": ", quoted(process.name), "}}"));
  std::array<bool, 1U << kNumResources> named{};
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const Task& task = graph.tasks[t];
    const int tid = task.resources.bits();
    if (!std::exchange(named[static_cast<std::size_t>(tid)], true))
      out.event(str("{\"ph\": \"M\", \"name\": \"thread_name\", \"pid\": ", pid, ", \"tid\": ", tid,
                    ", \"args\": {\"name\": ", quoted(stream_name(task.resources)), "}}"));
    out.event(str("{\"ph\": \"X\", \"name\": ", quoted(graph.name(t)), ", \"cat\": \"", to_string(task.stage),
                  "\", \"pid\": ", pid, ", \"tid\": ", tid, ", \"ts\": ", micros(time.start_us[t]), ", \"dur\": ",
                  micros(std::max(0.0, time.end_us[t] - time.start_us[t])), ", \"args\": ", arguments(task, t), "}"));
  }
  for (TaskId t = 0; t < graph.num_tasks(); ++t)
    for (const TaskId d : graph.dependencies(t)) {
      if (graph.tasks[d].resources == graph.tasks[t].resources) continue;
      const auto end = [&](const char* phase, TaskId task, double at) {
        out.event(str("{\"ph\": \"", phase, "\", \"name\": \"edge\", \"cat\": \"edge\", \"id\": ", flow,
                      ", \"pid\": ", pid, ", \"tid\": ", int{graph.tasks[task].resources.bits()},
                      ", \"ts\": ", micros(at), phase[0] == 'f' ? ", \"bp\": \"e\"}" : "}"));
      };
      end("s", d, time.end_us[d]);
      end("f", t, time.start_us[t]);
      ++flow;
    }
}

}  // namespace

std::string stream_name(ResourceSet resources) {
  std::string name;
  for (const auto& [resource, text] : {std::pair{Resource::kCompute, "compute"}, std::pair{Resource::kIntra, "intra"},
                                       std::pair{Resource::kInter, "inter"}, std::pair{Resource::kHost, "host"}})
    if (resources.has(resource)) name += (name.empty() ? "" : "+") + std::string(text);
  return name.empty() ? "none" : name;
}

std::string chrome_trace(std::span<const TraceProcess> processes) {
  Writer out;
  std::int64_t flow = 1;
  for (std::size_t p = 0; p < processes.size(); ++p) add_process(processes[p], static_cast<int>(p), flow, out);
  return out.finish();
}

std::string dot(const Graph& graph) {
  std::string out = "digraph step {\n  rankdir=LR;\n  node [shape=box, style=filled, fillcolor=white];\n";
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    const ResourceSet r = graph.tasks[t].resources;
    const char* colour = r.has(Resource::kCompute) ? "lightblue" : r.has(Resource::kInter) ? "salmon" : "khaki";
    out += str("  t", t, " [label=", quoted(graph.name(t)), ", fillcolor=", colour, "];\n");
  }
  for (TaskId t = 0; t < graph.num_tasks(); ++t)
    for (const TaskId d : graph.dependencies(t)) out += str("  t", d, " -> t", t, ";\n");
  return out + "}\n";
}

}  // namespace weft::scheduler
