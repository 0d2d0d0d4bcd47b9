// tools/bench/bench_schedule.cpp - what the scheduler itself costs.
#include "tools/bench/bench_schedule.h"

#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "scheduler/order.h"
#include "scheduler/simulator.h"
#include "scheduler/stream_executor.h"
#include "tools/exit_status.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using namespace weft::scheduler;
using Clock = std::chrono::steady_clock;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

/// Chains like those of a pipelined MoE layer: dispatch, all-gather, expert, combine of one chunk depend on one
/// another, chunks take turns on three resources, and buffers come and go. One chunk: every task waits for another
/// stream.
Graph made_up_step(int num_tasks, int chunks = 4) {
  constexpr Resource kStages[] = {Resource::kInter, Resource::kIntra, Resource::kCompute, Resource::kInter};
  constexpr WorkKind kKinds[] = {WorkKind::kAllToAll, WorkKind::kAllGather, WorkKind::kGroupedGemm,
                                 WorkKind::kAllToAll};
  GraphBuilder builder;
  std::vector<BufferId> chunk(static_cast<std::size_t>(chunks), kNoId);
  for (int t = 0; t < num_tasks; ++t) {
    const auto stage = static_cast<std::size_t>(t / chunks % 4), lane = static_cast<std::size_t>(t % chunks);
    TaskSpec spec;
    spec.resources = {kStages[stage]};
    spec.work = {kKinds[stage], 1e4 + 100.0 * (t % 7)};
    std::vector<BufferId> reads;
    if (chunk[lane] != kNoId) reads.push_back(chunk[lane]);
    chunk[lane] = builder.add_buffer({"chunk", MemoryClass::kActivations, 1024, false, false});
    builder.add_task(spec, reads, std::vector{chunk[lane]});
  }
  return builder.take();
}

CostModel made_up_costs(bool contended) {
  CostModel cost;
  cost.intra.fill({20.0, 1e-3});
  cost.inter.fill({40.0, 2e-3});
  cost.machine.issue_us = 1.0;
  if (contended)
    for (auto& row : cost.machine.contention) row.fill(1.2);
  return cost;
}

double median_us(int runs, const std::function<void()>& work) {
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) {
    const auto start = Clock::now();
    work();
    times.push_back(us_since(start));
  }
  return quantile(times, 0.5);
}

}  // namespace

int bench_simulate(bool as_json) {
  nlohmann::ordered_json facts = nlohmann::ordered_json::array();
  for (const int num_tasks : {10'000, 100'000, 1'000'000}) {
    const Graph graph = made_up_step(num_tasks);
    const Plan plan = sequential_plan(graph, {});
    const SlotMap slots = assign_slots(graph, plan);
    const int runs = num_tasks < 1'000'000 ? 5 : 3;
    for (const bool contended : {false, true}) {
      const CostModel cost = made_up_costs(contended);
      double total_us = 0.0;
      const double us = median_us(runs, [&] { total_us = simulate(graph, plan, slots, cost, false).total_us; });
      facts.push_back({{"tasks", num_tasks},
                       {"edges", graph.deps.size() + slots.reuse_edges.size()},
                       {"contention", contended},
                       {"ms", us / 1e3},
                       {"ns_per_task", 1e3 * us / num_tasks},
                       {"simulated_ms", total_us / 1e3}});
    }
  }
  if (as_json) {
    std::cout << facts.dump(2) << "\n";
    return kExitDone;
  }
  std::cout << "   tasks     edges  contention         ms   ns per task\n";
  for (const auto& f : facts) {
    char line[128];
    std::snprintf(line, sizeof line, "%8d  %8d  %-10s %10.2f  %12.1f\n", f["tasks"].get<int>(), f["edges"].get<int>(),
                  f["contention"].get<bool>() ? "yes" : "no", f["ms"].get<double>(), f["ns_per_task"].get<double>());
    std::cout << line;
  }
  return kExitDone;
}

int bench_executors(int num_tasks, int runs, bool as_json) {
  nlohmann::ordered_json facts = nlohmann::ordered_json::array();
  for (const int chunks : {1, 4}) {
    const Graph graph = made_up_step(num_tasks, chunks);
    const Plan plan = sequential_plan(graph, {});
    const SlotMap slots = assign_slots(graph, plan);
    Arena arena({}, graph, slots);
    const std::vector<TaskBody> bodies(graph.tasks.size(), [](TaskContext&) {});
    StreamExecutor streams({}, graph, plan, slots);
    const auto add = [&](const char* name, int num_crossings, const std::function<void()>& work) {
      work();  // first touch
      facts.push_back({{"executor", name},
                       {"tasks", num_tasks},
                       {"chunks", chunks},
                       {"waits_across_streams", num_crossings},
                       {"us_per_task", median_us(runs, work) / num_tasks}});
    };
    const auto stream = make_inline_stream();
    const auto clock = make_stream_clock({}, num_points(graph.num_tasks()));
    add("inline", 0, [&] { execute_inline(graph, plan, bodies, arena, *stream, *clock); });
    add("streams", streams.num_crossings(), [&] { streams.run(bodies, arena); });
    add("simulated", 0, [&] { static_cast<void>(simulate(graph, plan, slots, made_up_costs(true), false)); });
  }
  if (as_json) {
    std::cout << facts.dump(2) << "\n";
    return kExitDone;
  }
  std::cout << "executor      tasks  chunks  waits across streams  us per task\n";
  for (const auto& f : facts) {
    char line[128];
    std::snprintf(line, sizeof line, "%-10s %8d  %6d  %20d  %11.3f\n", f["executor"].get<std::string>().c_str(),
                  f["tasks"].get<int>(), f["chunks"].get<int>(), f["waits_across_streams"].get<int>(),
                  f["us_per_task"].get<double>());
    std::cout << line;
  }
  return kExitDone;
}

}  // namespace weft::tools
