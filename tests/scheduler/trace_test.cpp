#include "scheduler/trace.h"

#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "scheduler/order.h"
#include "scheduler/simulator.h"
#include "tests/support/catch.h"
#include "tests/support/random_plan.h"

using namespace weft;
using namespace weft::scheduler;

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
      const double at = e["ts"].get<double>() + (*edge == 's' ? e["dur"].get<double>() : 0.0);
      if (std::abs(at - flow["ts"].get<double>()) < 2e-3) return e["args"]["task"].get<int>();
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
  std::set<std::pair<int, int>> crossings;
  for (TaskId t = 0; t < graph.num_tasks(); ++t)
    for (const TaskId d : graph.dependencies(t))
      if (!(graph.tasks[d].resources == graph.tasks[t].resources)) crossings.insert({d, t});
  CHECK(arrows == crossings);
  CHECK(!crossings.empty());
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
