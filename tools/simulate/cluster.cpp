#include "tools/simulate/cluster.h"

#include <algorithm>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "parallel/step/step_emitter.h"
#include "parallel/train/run_setup.h"
#include "scheduler/fit.h"
#include "scheduler/simulator.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/plan/comparison.h"
#include "tools/simulate/policies.h"
#include "tools/simulate/schedule_json.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

/// Rows of the busiest rank over the mean, when every token sends as many of its choices there as experts allow.
double worst_load(const parallel::RunConfig& config) {
  const parallel::MoeConfig& moe = config.model.moe;
  const int ep = config.parallel.expert;
  const double to_one = std::min<double>(moe.top_k, static_cast<double>(moe.experts) / ep);
  const double load = ep * to_one / moe.top_k;
  return moe.capacity_factor > 0.0 ? std::min(load, std::max(1.0, moe.capacity_factor)) : load;
}

/// The 0.95 quantile of rank_imbalance over the steps of a run.
double recorded_load(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Error(ErrorCode::kIo, "cannot read " + path, "--routing takes the metrics.jsonl of a run");
  std::vector<double> loads;
  for (std::string line; std::getline(file, line);) {
    const nlohmann::json step = nlohmann::json::parse(line, nullptr, false);
    if (step.is_object() && step.contains("rank_imbalance") && step["rank_imbalance"].is_number())
      loads.push_back(std::max(1.0, step["rank_imbalance"].get<double>()));
  }
  if (loads.empty())
    throw Error(ErrorCode::kInvalidArgument, path + " has no rank_imbalance",
                "--routing takes the metrics.jsonl of a run");
  return scheduler::quantile(loads, 0.95);
}

/// Time and memory of the chosen plan when the busiest rank has `load` times the mean.
nlohmann::ordered_json under_routing(const parallel::RunConfig& config, const parallel::RunPlan& chosen,
                                     scheduler::CostModel cost, double load) {
  scheduler::Plan plan = chosen.plan;
  plan.shape.imbalance_limit = std::max(plan.shape.imbalance_limit, load);
  cost.imbalance = std::max(cost.imbalance, load);
  nlohmann::ordered_json out{{"busiest_over_mean", load}};
  std::int64_t most = 0;
  for (const int rank : {0, chosen.mesh.world_size - 1}) {  // shares of sharded states differ by a little
    parallel::Mesh mesh = chosen.mesh;
    mesh.world_rank = rank;
    const parallel::RunPlan priced = parallel::take_plan(config, mesh, cost, plan);
    if (rank == 0) out["predicted_ms"] = priced.predicted_ms;
    most = std::max(most, priced.memory.total());
  }
  out["memory_bytes"] = most;
  return out;
}

void print(const nlohmann::ordered_json& document) {
  print_table(document);
  std::cout << "exposed communication of the chosen plan by stage:\n";
  const auto& chosen = document["policies"][document["chosen"].get<std::string>()];
  if (chosen.contains("exposed_stage_ms"))
    for (const auto& [stage, ms] : chosen["exposed_stage_ms"].items())
      std::cout << "  " << stage << std::string(18 - std::min<std::size_t>(17, stage.size()), ' ')
                << fixed(ms.get<double>(), 2) << " ms\n";
  std::cout << "routing      busiest rank over mean   predicted ms   memory of a rank\n";
  for (const auto& [name, row] : document["routing"].items())
    std::cout << name << std::string(13 - name.size(), ' ') << fixed(row["busiest_over_mean"].get<double>(), 2)
              << std::string(21, ' ') << fixed(row["predicted_ms"].get<double>(), 2) << std::string(9, ' ')
              << human_bytes(row["memory_bytes"].get<double>()) << "\n";
}

}  // namespace

int simulate_cluster(const ClusterOptions& options) {
  parallel::RunConfig config = load_config(options.config, options.sets);
  constexpr std::int64_t kMostRanks = 1 << 20;
  if (std::int64_t{options.nodes} * options.gpus_per_node > kMostRanks)
    throw Error(ErrorCode::kInvalidArgument, str("--nodes ", options.nodes, " of --gpus_per_node ",
                                                 options.gpus_per_node, " are more than ", kMostRanks, " ranks"));
  const int world = options.nodes * options.gpus_per_node;
  require_valid(config, world);
  const scheduler::CostModel cost = options.cluster.empty() ? costs_of(config) : load_costs(options.cluster);
  const Comparison comparison =
      compare_plans(config, world, options.gpus_per_node, cost, policies_named(options.policy));
  nlohmann::ordered_json document = to_json(comparison);
  document["nodes"] = options.nodes;
  document["gpus_per_node"] = options.gpus_per_node;
  const parallel::RunPlan& chosen = comparison.fastest().run;
  document["routing"]["uniform"] = under_routing(config, chosen, cost, 1.0);
  if (!options.routing.empty())
    document["routing"]["recorded"] = under_routing(config, chosen, cost, recorded_load(options.routing));
  document["routing"]["worst case"] = under_routing(config, chosen, cost, worst_load(config));
  if (!options.schedule_out.empty()) {
    const parallel::StepEmitter emitter(parallel::training_spec(config, chosen.mesh), config.train.recompute,
                                        config.train.dtype);
    nlohmann::ordered_json tasks = nlohmann::ordered_json::array();
    append_tasks(tasks, emitter.emit(chosen.plan.shape), chosen.predicted);
    write_schedule(options.schedule_out, chosen.plan.policy, chosen.predicted_ms, std::move(tasks));
  }
  if (options.json)
    std::cout << document.dump(1) << "\n";
  else
    print(document);
  return kExitDone;
}

}  // namespace weft::tools
