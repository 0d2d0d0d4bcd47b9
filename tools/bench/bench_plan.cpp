// tools/bench/bench_plan.cpp - what planning a step costs.
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "parallel/step/step_emitter.h"
#include "parallel/train/run_setup.h"
#include "scheduler/bound.h"
#include "scheduler/order.h"
#include "scheduler/policy.h"
#include "tools/bench/bench_schedule.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A Mixtral-like step of 8 micro-batches on 4 nodes of 8 ranks.
parallel::RunConfig step_config(int layers) {
  parallel::RunConfig config;
  config.model.layers = layers;
  config.model.model_dim = 1024;
  config.model.expert_hidden_dim = 2048;
  config.model.heads = 16;
  config.model.kv_heads = 4;
  config.train.sequence_length = 1024;
  config.train.micro_batch = 2;
  config.train.global_batch = 32 * config.train.micro_batch * 8;
  config.parallel.expert = 8;
  config.schedule.policy = parallel::SchedulePolicy::kWeft;
  return config;
}

}  // namespace

int bench_plan(bool as_json) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  const scheduler::CostModel cost = nominal_costs();
  for (const int layers : {8, 16, 32, 64}) {
    const parallel::RunConfig config = step_config(layers);
    const parallel::Mesh mesh = parallel::make_mesh(32, 0, parallel::mesh_options(config, 8));
    const parallel::StepEmitter emitter(parallel::training_spec(config, mesh, cost.machine), config.train.recompute,
                                        config.train.dtype);
    auto start = Clock::now();
    const scheduler::Graph graph = emitter.emit(emitter.space().base);
    const double emission_s = seconds_since(start);
    start = Clock::now();
    static_cast<void>(scheduler::price(graph, scheduler::sequential_plan(graph, emitter.space().base), cost));
    const double price_s = seconds_since(start);
    start = Clock::now();
    const scheduler::SearchResult found = scheduler::search_plan(emitter, cost, {});
    const double search_s = seconds_since(start);
    start = Clock::now();
    const double bound_ms = scheduler::lower_bound_us(emitter, cost) / 1e3;
    rows.push_back({{"layers", layers},
                    {"micro_batches", 8},
                    {"tasks", graph.num_tasks()},
                    {"emission_ms", 1e3 * emission_s},
                    {"price_ms", 1e3 * price_s},
                    {"search_s", search_s},
                    {"candidates", found.num_candidates},
                    {"candidates_per_s", static_cast<double>(found.num_candidates) / search_s},
                    {"bound_s", seconds_since(start)},
                    {"planned_ms", found.price.total_us / 1e3},
                    {"gap", found.price.total_us / 1e3 / bound_ms - 1.0}});
  }
  if (as_json) {
    std::cout << nlohmann::ordered_json{{"plan", rows}}.dump(2) << "\n";
    return kExitDone;
  }
  std::cout << "layers   tasks   emission ms   price ms   search s   candidates/s   bound s\n";
  for (const auto& row : rows) {
    char line[160];
    std::snprintf(line, sizeof line, "%6d %7d %13.1f %10.1f %10.2f %14.0f %9.2f\n", row["layers"].get<int>(),
                  row["tasks"].get<int>(), row["emission_ms"].get<double>(), row["price_ms"].get<double>(),
                  row["search_s"].get<double>(), row["candidates_per_s"].get<double>(), row["bound_s"].get<double>());
    std::cout << line;
  }
  return kExitDone;
}

}  // namespace weft::tools
