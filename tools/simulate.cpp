// tools/simulate.cpp - weft simulate
#include <CLI/CLI.hpp>
#include <memory>

#include "core/error.h"
#include "tools/command.h"
#include "tools/number_checks.h"
#include "tools/simulate/cluster.h"
#include "tools/simulate/grid.h"
#include "tools/simulate/stages.h"

namespace weft::tools {
namespace {

struct Arguments {
  std::string grid, stages, cluster, config, routing, policy = "all", schedule_out;
  std::vector<std::string> sets;
  int nodes = 0, gpus_per_node = 1;
  int layers = 8, micro_batches = 4;
  int only_case = -1;
  bool gradients = false, unequal = false, json = false;
};

int run(const Arguments& a) {
  if ((a.grid.empty() ? 0 : 1) + (a.stages.empty() ? 0 : 1) + (a.config.empty() ? 0 : 1) != 1)
    throw Error(ErrorCode::kInvalidArgument, "one of --grid, --stages and --config is needed",
                "see weft simulate --help");
  if (a.grid.empty() && (a.only_case >= 0 || a.gradients || a.unequal))
    throw Error(ErrorCode::kInvalidArgument, "--case, --gradients and --unequal go with --grid alone");
  if (!a.config.empty()) {
    if (a.nodes < 1)
      throw Error(ErrorCode::kInvalidArgument, "--config needs --nodes N", "and --gpus_per_node G for more than one");
    return simulate_cluster(
        {a.config, a.cluster, a.sets, a.nodes, a.gpus_per_node, a.policy, a.routing, a.json, a.schedule_out});
  }
  if (!a.stages.empty())
    return simulate_stages({a.stages, a.layers, a.micro_batches, a.policy, a.json, a.schedule_out});
  if (a.grid != "fsmoe")
    throw Error(ErrorCode::kInvalidArgument, "there is no grid '" + a.grid + "'", "the grid is called fsmoe");
  if (a.cluster.empty())
    throw Error(ErrorCode::kInvalidArgument, "--grid needs --cluster FILE",
                "for example configs/clusters/fsmoe_testbed_a.textproto");
  GridOptions options{a.cluster, a.policy, a.gradients, a.unequal, a.json, {}, a.schedule_out};
  if (a.only_case >= 0) options.only_case = a.only_case;
  return simulate_grid(options);
}

}  // namespace

void add_simulate(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("simulate", "Plan and price steps on clusters you do not have");
  auto a = std::make_shared<Arguments>();
  command->add_option("--grid", a->grid, "fsmoe: the 3^6 x 2 MoE layers of FSMoE's evaluation, forward then backward");
  command->add_option("--config", a->config, "The step of a training config, as it would run on the cluster");
  command->add_option("--nodes", a->nodes, "With --config: nodes of the cluster")->check(CLI::Range(1, 1 << 16));
  command->add_option("--gpus_per_node", a->gpus_per_node, "With --config: ranks of a node")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_option(
      "--routing", a->routing,
      "With --config: metrics.jsonl of a run with metrics.router_every, for the routing that it recorded: "
      "of each layer's loads over the steps, the 0.95 quantile");
  command->add_option("--set", a->sets, "With --config: override a field, path.to.field=value (repeatable)")
      ->type_name("PATH=VALUE");
  command->add_option("--cluster", a->cluster,
                      "With --grid: a testbed, configs/clusters/fsmoe_testbed_*.textproto. With --config: costs, "
                      "configs/clusters/*.textproto or a profile; default: as training");
  command->add_option("--stages", a->stages,
                      "A whole step from measured stage times, configs/clusters/fsmoe_table2_*.textproto");
  command->add_option("--layers", a->layers, "With --stages: transformer blocks")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_option("--micro_batches", a->micro_batches, "With --stages: micro-batches of the step, two in flight")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command
      ->add_option("--policy", a->policy,
                   "sequential, tutel, tutel_improved, pipemoe_lina, fsmoe_no_iio, fsmoe, flowmoe, weft (several with "
                   "commas between), or all")
      ->capture_default_str();
  command->add_flag("--gradients", a->gradients, "With --grid: a gradient all-reduce runs in the backward");
  command->add_flag("--unequal", a->unequal,
                    "With --grid: report apart what chunks of unequal sizes gain over weft's plan");
  command->add_option("--case", a->only_case, "With --grid: only this case, counted from 0")->check(not_negative());
  command->add_option("--schedule_out", a->schedule_out,
                      "Write the schedule (of weft, with all) as JSON: every task with its start and end in "
                      "milliseconds. --grid needs --case with it");
  command->add_flag("--json", a->json, "Print one JSON document");
  command->callback([a, &action] { action = [a] { return run(*a); }; });
}

}  // namespace weft::tools
