#include "tools/simulate/cluster.h"

#include <algorithm>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "parallel/step/step_emitter.h"
#include "parallel/train/run_setup.h"
#include "scheduler/simulator.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/plan/comparison.h"
#include "tools/simulate/policies.h"
#include "tools/simulate/routing.h"
#include "tools/simulate/schedule_json.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

constexpr double kRoutingQuantile = 0.95;

/// Time and memory of the chosen plan under `loads`. Memory is planned for the busiest layer.
nlohmann::ordered_json under_routing(const parallel::RunConfig& config, const parallel::RunPlan& chosen,
                                     scheduler::CostModel cost, const RankLoads& loads) {
  scheduler::Plan plan = chosen.plan;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  double busiest = 1.0;
  for (int l = 0; l < config.model.layers; ++l) {
    const double load = loads.by_layer[static_cast<std::size_t>(l)];
    cost.layer_imbalance.push_back(std::max(cost.imbalance, load));
    busiest = std::max(busiest, load);
    if (config.model.is_moe_layer(l)) layers.push_back(load);
  }
  plan.shape.imbalance_limit = std::max(plan.shape.imbalance_limit, busiest);
  nlohmann::ordered_json out{{"busiest_over_mean", busiest}, {"busiest_over_mean_by_moe_layer", layers}};
  if (loads.steps > 0) {
    out["steps"] = loads.steps;
    out["quantile"] = kRoutingQuantile;
  }
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
  std::cout << "routing      busiest rank over mean   predicted ms   memory of a rank   (busiest layer)\n";
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
  const RankLoads uniform{std::vector<double>(static_cast<std::size_t>(config.model.layers), 1.0), 0};
  document["routing"]["uniform"] = under_routing(config, chosen, cost, uniform);
  if (!options.routing.empty())
    document["routing"]["recorded"] =
        under_routing(config, chosen, cost, recorded_loads(options.routing, config, kRoutingQuantile));
  document["routing"]["worst case"] = under_routing(config, chosen, cost, worst_loads(config));
  if (!options.schedule_out.empty()) {
    const parallel::StepEmitter emitter(parallel::training_spec(config, chosen.mesh, cost.machine),
                                        config.train.recompute, config.train.dtype);
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
