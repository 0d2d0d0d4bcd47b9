#include "scheduler/trace.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"

namespace weft::scheduler {
namespace {

std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

/// Nanosecond steps: more would be noise. As whole numbers, so that a slice ends where it should for the next one.
std::int64_t nanoseconds(double us) { return std::llround(us * 1e3); }

std::string micros(std::int64_t ns) {
  char text[48];
  std::snprintf(text, sizeof text, "%lld.%03d", static_cast<long long>(ns / 1000), static_cast<int>(ns % 1000));
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

/// Disjoint rows for spans that may overlap: each goes to the first row that is free at its start.
class Lanes {
 public:
  int place(std::int64_t start, std::int64_t end) {
    std::size_t lane = 0;
    while (lane < free_at_.size() && free_at_[lane] > start) ++lane;
    if (lane == free_at_.size()) free_at_.push_back(0);
    free_at_[lane] = end;
    return static_cast<int>(lane);
  }

 private:
  std::vector<std::int64_t> free_at_;
};

/// What one timeline shows. Arrows (`flow`) and asynchronous events (`span`) are numbered over the whole file.
class ProcessTrace {
 public:
  ProcessTrace(const TraceProcess& process, int pid, Writer& out)
      : graph_(*process.graph), time_(*process.timeline), pid_(pid), out_(out) {
    WEFT_CHECK(time_.start_us.size() == graph_.tasks.size() && time_.end_us.size() == graph_.tasks.size(),
               "trace: ", time_.start_us.size(), " times for ", graph_.tasks.size(), " tasks");
    out_.event(str("{\"ph\": \"M\", \"name\": \"process_name\", \"pid\": ", pid,
                   ", \"args\": {\"name\": ", quoted(process.name), "}}"));
    by_start_.resize(graph_.tasks.size());
    std::iota(by_start_.begin(), by_start_.end(), TaskId{0});
    std::stable_sort(by_start_.begin(), by_start_.end(), [&](TaskId a, TaskId b) { return start(a) < start(b); });
  }
  void add_slices();
  void add_arrows(std::int64_t& flow);
  void add_micro_batches(std::int64_t& span);
  void add_memory();

 private:
  static constexpr int kStreams = 1 << kNumResources;
  [[nodiscard]] std::int64_t start(TaskId t) const { return nanoseconds(time_.start_us[t]); }
  [[nodiscard]] std::int64_t end(TaskId t) const { return std::max(start(t), nanoseconds(time_.end_us[t])); }
  [[nodiscard]] int stream(TaskId t) const { return graph_.tasks[t].resources.bits(); }
  void name_track(int tid, ResourceSet resources, int lane);
  void span_event(const char* phase, std::int64_t id, const std::string& name, ResourceSet stream, std::int64_t ns);

  const Graph& graph_;
  const Timeline& time_;
  int pid_;
  Writer& out_;
  std::vector<TaskId> by_start_;
  std::vector<int> tid_;  // [tasks], once add_slices has run
};

/// The first lane of a stream has its name, those for tasks that overlap it stand below.
void ProcessTrace::name_track(int tid, ResourceSet resources, int lane) {
  const std::string name = stream_name(resources) + (lane == 0 ? "" : str(" #", lane + 1));
  const std::string head = str("\"pid\": ", pid_, ", \"tid\": ", tid, ", \"args\": {");
  out_.event(str("{\"ph\": \"M\", \"name\": \"thread_name\", ", head, "\"name\": ", quoted(name), "}}"));
  out_.event(str("{\"ph\": \"M\", \"name\": \"thread_sort_index\", ", head,
                 "\"sort_index\": ", int{resources.bits()} * 64 + lane, "}}"));
}

void ProcessTrace::add_slices() {
  std::array<Lanes, kStreams> lanes;
  std::set<int> named;
  tid_.resize(graph_.tasks.size());
  for (const TaskId t : by_start_) {
    const Task& task = graph_.tasks[t];
    const int lane = lanes[static_cast<std::size_t>(stream(t))].place(start(t), end(t));
    const int tid = tid_[static_cast<std::size_t>(t)] = stream(t) + kStreams * lane;
    if (named.insert(tid).second) name_track(tid, task.resources, lane);
    out_.event(str("{\"ph\": \"X\", \"name\": ", quoted(graph_.name(t)), ", \"cat\": \"", to_string(task.stage),
                   "\", \"pid\": ", pid_, ", \"tid\": ", tid, ", \"ts\": ", micros(start(t)),
                   ", \"dur\": ", micros(end(t) - start(t)), ", \"args\": ", arguments(task, t), "}"));
  }
}

/// Of the edges from one stream to a task, the one that ended last: a stream is first in, first out, so it stands for
/// the others. An arrow leaves inside its slice: at the end, the slice is over and there is nothing to bind to.
void ProcessTrace::add_arrows(std::int64_t& flow) {
  for (TaskId t = 0; t < graph_.num_tasks(); ++t) {
    std::array<TaskId, kStreams> last;
    last.fill(kNoId);
    for (const TaskId d : graph_.dependencies(t)) {
      TaskId& best = last[static_cast<std::size_t>(stream(d))];
      if (best == kNoId || end(d) > end(best)) best = d;
    }
    for (int s = 0; s < kStreams; ++s) {
      const TaskId d = last[static_cast<std::size_t>(s)];
      if (d == kNoId || s == stream(t)) continue;
      const auto event = [&](const char* phase, TaskId task, std::int64_t at, const char* tail) {
        out_.event(str("{\"ph\": \"", phase, "\", \"name\": \"edge\", \"cat\": \"edge\", \"id\": ", flow, ", \"pid\": ",
                       pid_, ", \"tid\": ", tid_[static_cast<std::size_t>(task)], ", \"ts\": ", micros(at), tail));
      };
      event("s", d, std::max(start(d), end(d) - 1), "}");
      event("f", t, start(t), ", \"bp\": \"e\"}");
      ++flow;
    }
  }
}

void ProcessTrace::span_event(const char* phase, std::int64_t id, const std::string& name, ResourceSet resources,
                              std::int64_t ns) {
  out_.event(str("{\"ph\": \"", phase, "\", \"name\": ", quoted(name), ", \"cat\": \"", stream_name(resources),
                 "\", \"id\": ", id, ", \"pid\": ", pid_, ", \"tid\": ", int{resources.bits()},
                 ", \"ts\": ", micros(ns), "}"));
}

/// An asynchronous track per stream: from when to when it works for each micro-batch, forward and backward. These
/// overlap where micro-batches are in flight together. A track is named after its outer event, and Perfetto puts tracks
/// of one name together, so each span lies in an event with the stream's name.
void ProcessTrace::add_micro_batches(std::int64_t& span) {
  struct Range {
    std::int64_t start, end;
    ResourceSet resources;
  };
  std::map<std::tuple<int, int, Phase>, Range> ranges;
  for (const TaskId t : by_start_) {
    const Task& task = graph_.tasks[t];
    if (task.micro_batch == kNoId) continue;
    const auto [at, is_new] =
        ranges.try_emplace({stream(t), task.micro_batch, task.phase}, Range{start(t), end(t), task.resources});
    at->second.end = std::max(at->second.end, end(t));
  }
  for (const auto& [key, range] : ranges) {
    const std::string stream = stream_name(range.resources) + ": micro-batches";
    const std::string name = str("micro-batch ", std::get<1>(key), " ", to_string(std::get<2>(key)));
    span_event("b", span, stream, range.resources, range.start);
    span_event("b", span, name, range.resources, range.start);
    span_event("e", span, name, range.resources, range.end);
    span_event("e", span, stream, range.resources, range.end);
    ++span;
  }
}

/// A counter of the bytes in use, by class: a buffer counts from its first access to its last. Of a long step the
/// peaks of equal parts.
void ProcessTrace::add_memory() {
  using Bytes = std::array<std::int64_t, kNumMemoryClasses>;
  constexpr std::int64_t kMostSamples = 1000;
  std::vector<std::pair<std::int64_t, std::int64_t>> life(graph_.buffers.size(), {-1, -1});
  for (const TaskId t : by_start_)
    for (const auto& accesses : {graph_.reads(t), graph_.writes(t)})
      for (const BufferId b : accesses) {
        auto& [first, last] = life[static_cast<std::size_t>(b)];
        first = first < 0 ? start(t) : first;
        last = std::max(last, end(t));
      }
  std::map<std::int64_t, Bytes> changes;
  for (std::size_t b = 0; b < life.size(); ++b) {
    const BufferSpec& buffer = graph_.buffers[b];
    if (buffer.persistent || life[b].first < 0) continue;
    const auto memory = static_cast<std::size_t>(buffer.memory);
    changes[life[b].first][memory] += buffer.bytes;
    changes[life[b].second][memory] -= buffer.bytes;
  }
  if (changes.empty()) return;
  const std::int64_t part = std::max<std::int64_t>(1, changes.rbegin()->first / kMostSamples);
  std::map<std::int64_t, std::pair<std::int64_t, Bytes>> samples;  // by part: total and bytes of its peak
  Bytes now{};
  for (const auto& [ns, change] : changes) {
    for (std::size_t c = 0; c < now.size(); ++c) now[c] += change[c];
    const std::int64_t total = std::accumulate(now.begin(), now.end(), std::int64_t{0});
    const bool few = static_cast<std::int64_t>(changes.size()) <= kMostSamples;
    auto& sample = samples.try_emplace(few ? ns : ns / part * part, std::int64_t{-1}, Bytes{}).first->second;
    if (total > sample.first) sample = {total, now};
  }
  for (const auto& [ns, sample] : samples) {
    std::string args;
    for (std::size_t c = 0; c < now.size(); ++c)
      args += str(args.empty() ? "" : ", ", "\"", to_string(static_cast<MemoryClass>(c)), "\": ", sample.second[c]);
    out_.event(str("{\"ph\": \"C\", \"name\": \"buffers (bytes)\", \"pid\": ", pid_, ", \"ts\": ", micros(ns),
                   ", \"args\": {", args, "}}"));
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
  std::int64_t flow = 1, span = 1;
  for (std::size_t p = 0; p < processes.size(); ++p) {
    ProcessTrace process(processes[p], static_cast<int>(p), out);
    process.add_slices();
    process.add_arrows(flow);
    process.add_micro_batches(span);
    process.add_memory();
  }
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
