#include "scheduler/trace.h"

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "scheduler/order.h"
#include "scheduler/simulator.h"
#include "tests/support/catch.h"
#include "tests/support/generators.h"
#include "tests/support/random_plan.h"

using namespace weft;
using namespace weft::scheduler;
using test::Random;

namespace {

CostModel costs() {
  CostModel c;
  c.intra.fill({2.0, 0.5});
  c.inter.fill({3.0, 0.5});
  return c;
}

}  // namespace

TEST_CASE("A trace has each task once per timeline, on its stream, at its time", "[trace]") {
  const Graph graph = test::random_graph(3, 60);
  const Plan plan = sequential_plan(graph, {});
  const Timeline time = simulate(graph, plan, assign_slots(graph, plan), costs(), false);
  const TraceProcess processes[] = {{"measured, \"rank 0\"", &graph, &time}, {"simulated", &graph, &time}};
  const std::string text = chrome_trace(processes);
  CHECK(text == chrome_trace(processes));
  const nlohmann::json trace = nlohmann::json::parse(text);

  std::map<int, std::map<int, std::string>> stream_names;  // [pid][tid]
  std::map<int, std::set<int>> tasks;
  std::map<std::int64_t, nlohmann::json> starts;
  std::set<std::pair<int, int>> arrows;  // of process 0, by task
  const auto task_at = [&](int pid, const nlohmann::json& flow, const char* edge) {
    for (const auto& e : trace["traceEvents"]) {
      if (e["ph"] != "X" || e["pid"] != pid || e["tid"] != flow["tid"]) continue;
      const double begin = e["ts"], end = begin + e["dur"].get<double>(), at = flow["ts"];
      if (*edge == 's' ? at >= begin && at < end && at > end - 2e-3 : at == begin) return e["args"]["task"].get<int>();
    }
    return -1;
  };
  for (const auto& e : trace["traceEvents"]) {
    const int pid = e["pid"];
    if (e["ph"] == "M" && e["name"] == "thread_name") stream_names[pid][e["tid"]] = e["args"]["name"];
    if (e["ph"] == "X") {
      const int t = e["args"]["task"];
      CHECK(tasks[pid].insert(t).second);
      CHECK(stream_names[pid][e["tid"]] == stream_name(graph.tasks[t].resources));
      CHECK(e["name"] == graph.name(t));
      CHECK(e["ts"].get<double>() == Approx(time.start_us[t]).margin(1e-3));
      CHECK(e["dur"].get<double>() == Approx(time.end_us[t] - time.start_us[t]).margin(2e-3));
      CHECK(e["args"]["amount"].get<double>() == graph.tasks[t].work.amount);
    }
    if (e["ph"] == "s") starts[e["id"]] = e;
    if (e["ph"] == "f" && pid == 0) {
      REQUIRE(starts.contains(e["id"]));
      const int from = task_at(0, starts[e["id"]], "s"), to = task_at(0, e, "f");
      REQUIRE(from >= 0);
      REQUIRE(to >= 0);
      arrows.insert({from, to});
    }
  }
  CHECK(tasks[0].size() == graph.tasks.size());
  CHECK(tasks[1].size() == graph.tasks.size());
  std::set<std::pair<int, int>> crossings;  // of each other stream the last
  for (TaskId t = 0; t < graph.num_tasks(); ++t) {
    std::map<int, TaskId> last;
    for (const TaskId d : graph.dependencies(t))
      if (const auto [at, is_new] = last.try_emplace(graph.tasks[d].resources.bits(), d);
          !is_new && time.end_us[d] > time.end_us[at->second])
        at->second = d;
    for (const auto& [stream, d] : last)
      if (stream != graph.tasks[t].resources.bits()) crossings.insert({d, t});
  }
  CHECK(arrows == crossings);
  CHECK(!crossings.empty());
}

TEST_CASE("A trace is well-formed though tasks of a stream overlap", "[trace]") {
  Graph graph = test::random_graph(5, 200);
  Random random(3);
  Timeline time;
  for (std::size_t t = 0; t < graph.tasks.size(); ++t) {  // any times: overlapping, empty, in any order
    graph.tasks[t].micro_batch = static_cast<std::int16_t>(t % 7 == 0 ? kNoId : static_cast<std::int16_t>(t % 3));
    graph.tasks[t].phase = t % 2 == 0 ? Phase::kForward : Phase::kBackward;
    time.start_us.push_back(1e-4 * static_cast<double>(random.below(3000000)));
    time.end_us.push_back(time.start_us.back() + (t % 5 == 0 ? 0.0 : 1e-4 * double(random.below(90000))));
  }
  const TraceProcess process{"x", &graph, &time};
  const nlohmann::json trace = nlohmann::json::parse(chrome_trace(std::span(&process, 1)));
  std::map<int, std::vector<std::pair<std::int64_t, std::int64_t>>> tracks;  // by tid: start and end in ns
  std::map<int, std::string> names;
  std::map<std::int64_t, std::vector<nlohmann::json>> open;  // by id of asynchronous events
  std::map<std::string, std::set<std::string>> spans;        // by category
  const auto ns = [](const nlohmann::json& us) { return std::llround(us.get<double>() * 1e3); };
  for (const auto& e : trace["traceEvents"]) {
    if (e["ph"] == "M" && e["name"] == "thread_name") names[e["tid"]] = e["args"]["name"];
    if (e["ph"] == "X") tracks[e["tid"]].push_back({ns(e["ts"]), ns(e["ts"]) + ns(e["dur"])});
    if (e["ph"] == "b") open[e["id"]].push_back(e);
    if (e["ph"] != "e") continue;
    auto& stack = open[e["id"]];
    REQUIRE(!stack.empty());
    CHECK(stack.back()["name"] == e["name"]);
    CHECK(stack.back()["cat"] == e["cat"]);
    CHECK(stack.back()["ts"] <= e["ts"]);
    stack.pop_back();
    spans[e["cat"]].insert(e["name"].get<std::string>());
  }
  for (const auto& [id, stack] : open) CHECK(stack.empty());
  CHECK(spans.size() == 3);
  for (const auto& [stream, found] : spans) CHECK(found.size() == 1 + 3 * 2);  // the track, micro-batches and phases
  std::set<std::string> streams;
  for (auto& [tid, slices] : tracks) {
    REQUIRE(names.contains(tid));
    streams.insert(names[tid]);
    for (std::size_t i = 1; i < slices.size(); ++i) CHECK(slices[i].first >= slices[i - 1].second);
  }
  CHECK(streams.contains("compute"));
  CHECK(streams.contains("compute #2"));
}

TEST_CASE("A trace counts the bytes of the buffers in use", "[trace]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer({"x", MemoryClass::kActivations, 8, false, false});
  const BufferId y = b.add_buffer({"y", MemoryClass::kCommunication, 5, false, false});
  const BufferId w = b.add_buffer({"w", MemoryClass::kParameters, 100, false, true});
  b.add_task({}, {}, std::vector{x, w});
  b.add_task({}, std::vector{x}, std::vector{y});
  b.add_task({}, std::vector{y}, {});
  const Timeline time{{0.0, 2.0, 5.0}, {1.0, 4.0, 6.0}, 6.0};
  const TraceProcess process{"x", &b.graph(), &time};
  std::vector<std::vector<std::int64_t>> samples;  // ns, activations, communication
  const nlohmann::json trace = nlohmann::json::parse(chrome_trace(std::span(&process, 1)));
  for (const auto& e : trace["traceEvents"])
    if (e["ph"] == "C")
      samples.push_back(
          {std::llround(e["ts"].get<double>() * 1e3), e["args"]["activations"], e["args"]["communication"]});
  CHECK(samples == std::vector<std::vector<std::int64_t>>{{0, 8, 0}, {2000, 8, 5}, {4000, 0, 5}, {6000, 0, 0}});
}

TEST_CASE("A trace wants a time for every task", "[trace]") {
  const Graph graph = test::random_graph(3, 5);
  const Timeline time{{0.0}, {1.0}, 1.0};
  const TraceProcess process{"x", &graph, &time};
  CHECK_THROWS_AS(chrome_trace(std::span(&process, 1)), Error);
}

TEST_CASE("DOT names tasks and edges", "[trace]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer({"x", MemoryClass::kActivations, 8, false, false});
  TaskSpec dispatch;
  dispatch.stage = Stage::kDispatch;
  dispatch.layer = 2;
  dispatch.resources = {Resource::kIntra};
  b.add_task(dispatch, {}, std::vector{x});
  b.add_task({}, std::vector{x}, {});
  const std::string text = dot(b.graph());
  CHECK_THAT(text, Catch::Contains("t0 [label=\"dispatch(forward) layer 2\""));
  CHECK_THAT(text, Catch::Contains("t0 -> t1;"));
  CHECK_THAT(text, !Catch::Contains("t1 -> t0"));
}
