#include "tools/report/step_view.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "core/error.h"
#include "scheduler/trace.h"

namespace weft::tools {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using scheduler::kNoId;
using scheduler::TaskId;

template <class Enum>
Enum named(const std::string& name, int count) {
  for (int i = 0; i < count; ++i)
    if (to_string(static_cast<Enum>(i)) == name) return static_cast<Enum>(i);
  throw Error(ErrorCode::kInvalidArgument, "no stage or phase has the name " + name);
}

/// "intra+inter #2": the resources, whatever the lane.
scheduler::ResourceSet resources_of(const std::string& track) {
  const std::string stream = "+" + track.substr(0, track.find(" #")) + "+";
  scheduler::ResourceSet out;
  for (int r = 0; r < scheduler::kNumResources; ++r) {
    const auto resource = static_cast<scheduler::Resource>(r);
    if (stream.find("+" + scheduler::stream_name({resource}) + "+") != std::string::npos) out.add(resource);
  }
  return out;
}

std::int16_t place(const json& arguments, const char* key) {
  return static_cast<std::int16_t>(arguments.value(key, int{kNoId}));
}

void add_task(StepView& step, const json& event, const std::string& track) {
  const json& arguments = event.at("args");
  scheduler::Task task;
  task.stage = named<scheduler::Stage>(arguments.at("stage").get<std::string>(), scheduler::kNumStages);
  task.phase = named<scheduler::Phase>(arguments.at("phase").get<std::string>(), scheduler::kNumPhases);
  task.layer = place(arguments, "layer");
  task.micro_batch = place(arguments, "micro_batch");
  task.sub_batch = place(arguments, "sub_batch");
  task.chunk = place(arguments, "chunk");
  task.resources = resources_of(track);
  const double start = event.at("ts").get<double>(), end = start + event.at("dur").get<double>();
  step.graph.tasks.push_back(task);
  step.timeline.start_us.push_back(start);
  step.timeline.end_us.push_back(end);
  step.timeline.total_us = std::max(step.timeline.total_us, end);
  const std::string name = event.at("name").get<std::string>();
  step.label.push_back(name.substr(0, std::min(name.find(" layer "), name.find(" micro-batch "))));
}

/// To nanoseconds, as traces are: sums of differences leave dust.
double to_ms(double us) { return std::round(us * 1e3) / 1e6; }

double rounded(double us) { return std::round(us * 10.0) / 10.0; }

std::vector<TaskId> by_start(const StepView& step, std::size_t most) {
  std::vector<TaskId> tasks(step.graph.tasks.size());
  std::iota(tasks.begin(), tasks.end(), TaskId{0});
  const auto& t = step.timeline;
  if (tasks.size() > most) {
    const auto longer = [&](TaskId a, TaskId b) { return t.end_us[a] - t.start_us[a] > t.end_us[b] - t.start_us[b]; };
    std::ranges::nth_element(tasks, tasks.begin() + static_cast<std::ptrdiff_t>(most), longer);
    tasks.resize(most);
  }
  std::ranges::sort(tasks,
                    [&](TaskId a, TaskId b) { return std::pair(t.start_us[a], a) < std::pair(t.start_us[b], b); });
  return tasks;
}

/// The first of a stream's lanes that is free at `start`, taken until `end`.
int lane_of(std::vector<double>& free_at, double start, double end) {
  const auto free = std::ranges::find_if(free_at, [&](double at) { return at <= start + 0.05; });
  const auto lane = static_cast<std::size_t>(free - free_at.begin());
  if (free == free_at.end()) free_at.push_back(0.0);
  free_at[lane] = end;
  return static_cast<int>(lane);
}

}  // namespace

std::vector<StepView> read_trace(const std::string& text, const std::string& origin) {
  std::map<int, StepView> steps;
  std::map<std::pair<int, int>, std::string> tracks;
  try {
    const json trace = json::parse(text);
    for (const json& event : trace.at("traceEvents")) {
      if (event.at("ph") != "M") continue;
      const std::string name = event.at("name").get<std::string>();
      const int pid = event.at("pid").get<int>();
      if (name == "process_name") steps[pid].name = event.at("args").at("name").get<std::string>();
      if (name == "thread_name")
        tracks[{pid, event.at("tid").get<int>()}] = event.at("args").at("name").get<std::string>();
    }
    for (const json& event : trace.at("traceEvents"))
      if (event.at("ph") == "X")
        add_task(steps[event.at("pid").get<int>()], event,
                 tracks[{event.at("pid").get<int>(), event.at("tid").get<int>()}]);
  } catch (const json::exception& e) {
    throw Error(ErrorCode::kInvalidArgument, str(origin, " is no trace of weft train: ", e.what()),
                "record it again: weft train --trace STEP");
  }
  std::vector<StepView> out;
  for (auto& [pid, step] : steps) out.push_back(std::move(step));
  return out;
}

ordered_json step_json(const StepView& step, std::size_t most_tasks) {
  const std::vector<TaskId> tasks = by_start(step, most_tasks);
  ordered_json out{{"name", step.name},
                   {"total_ms", step.timeline.total_us / 1e3},
                   {"exposed_comm_ms", scheduler::exposed_comm_us(step.graph, step.timeline) / 1e3},
                   {"left_out", step.graph.tasks.size() - tasks.size()},
                   {"streams", ordered_json::array()},
                   {"kinds", ordered_json::array()},
                   {"tasks", ordered_json::array()},
                   {"overlap", overlap_json(step)},
                   {"exposed_stage_ms", ordered_json::object()}};
  const auto exposed = scheduler::exposed_stage_us(step.graph, step.timeline);
  for (std::size_t s = 0; s < exposed.size(); ++s)
    if (exposed[s] > 0.0)
      out["exposed_stage_ms"][std::string(to_string(static_cast<scheduler::Stage>(s)))] = to_ms(exposed[s]);
  std::map<int, std::size_t> streams;  // by resource bits, so that compute comes first
  for (const TaskId t : tasks) streams[step.graph.tasks[t].resources.bits()] = 0;
  for (auto& [bits, index] : streams) {
    index = out["streams"].size();
    const auto of = std::ranges::find_if(tasks, [&](TaskId t) { return step.graph.tasks[t].resources.bits() == bits; });
    out["streams"].push_back(scheduler::stream_name(step.graph.tasks[*of].resources));
  }
  std::map<std::string, std::size_t> kinds;
  std::vector<std::vector<double>> lanes(streams.size());
  for (const TaskId t : tasks) {
    const scheduler::Task& task = step.graph.tasks[t];
    const std::string& label = step.label[static_cast<std::size_t>(t)];
    const auto [kind, is_new] = kinds.try_emplace(label, kinds.size());
    if (is_new)
      out["kinds"].push_back({{"label", label}, {"stage", to_string(task.stage)}, {"phase", to_string(task.phase)}});
    const std::size_t stream = streams[task.resources.bits()];
    const double start = step.timeline.start_us[t], end = step.timeline.end_us[t];
    out["tasks"].push_back(
        ordered_json::array({stream, lane_of(lanes[stream], start, end), kind->second, rounded(start),
                             rounded(end - start), task.layer, task.micro_batch, task.chunk}));
  }
  return out;
}

ordered_json overlap_json(const StepView& step) {
  constexpr std::array kNames{"compute", "intra", "inter"};
  const auto us = scheduler::overlap_us(step.graph, step.timeline);
  ordered_json out{{"busy_ms", ordered_json::object()}, {"pairs", ordered_json::array()}};
  for (std::size_t a = 0; a < 3; ++a) out["busy_ms"][kNames[a]] = to_ms(us[a][a]);
  for (std::size_t a = 0; a < 3; ++a)
    for (std::size_t b = a + 1; b < 3; ++b) {
      const double smaller = std::min(us[a][a], us[b][b]);
      ordered_json pair{{"a", kNames[a]}, {"b", kNames[b]}, {"ms", to_ms(us[a][b])}, {"share", nullptr}};
      if (to_ms(smaller) > 0.0) pair["share"] = to_ms(us[a][b]) / to_ms(smaller);
      out["pairs"].push_back(std::move(pair));
    }
  return out;
}

}  // namespace weft::tools
