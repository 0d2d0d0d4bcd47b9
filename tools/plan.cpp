// tools/plan.cpp - weft plan
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <optional>

#include "core/atomic_file.h"
#include "core/error.h"
#include "parallel/train/run_setup.h"
#include "tools/command.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/launcher.h"
#include "tools/plan/comparison.h"
#include "tools/simulate/policies.h"

namespace weft::tools {
namespace {

struct PlanArguments {
  std::string config, profile, policy = "all", out;
  std::vector<std::string> sets;
  int ranks = 0, ranks_per_node = 0;
  bool json = false;
};

int run_plan(const PlanArguments& args) {
  const Launch launch = find_launch().value_or(Launch{});
  if (launch.rank != 0) return kExitDone;
  parallel::RunConfig config = load_config(args.config, args.sets);
  if (!args.profile.empty()) config.schedule.profile = args.profile;
  const int ranks = args.ranks > 0 ? args.ranks : launch.num_ranks;
  require_valid(config, ranks);
  const int ranks_per_node = args.ranks_per_node > 0 ? args.ranks_per_node : ranks;
  const std::optional<DeviceKind> device = chosen_device(config);
  const std::string warning = profile_warning(config, ranks, ranks_per_node, device);
  if (!warning.empty()) std::cerr << "warning: " << warning << "\n";
  scheduler::CostModel cost = costs_of(config);
  if (device) cost = parallel::costs_on({*device, 0}, std::move(cost));
  const Comparison comparison = compare_plans(config, ranks, ranks_per_node, cost, policies_named(args.policy));
  const nlohmann::ordered_json facts = to_json(comparison);
  if (!args.out.empty()) {
    parallel::RunPlan fastest = comparison.fastest().run;
    parallel::require_memory(config, parallel::peak_memory(config, fastest.mesh, cost.machine, fastest.plan),
                             fastest.plan);
    write_file(args.out, plan_to_text(fastest.plan));
  }
  if (args.json)
    std::cout << facts.dump(2) << "\n";
  else
    print_table(facts);
  return kExitDone;
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("plan", "Plan a training step, and say what the plan is predicted to gain");
  auto args = std::make_shared<PlanArguments>();
  command->add_option("config", args->config, "Config file: the model, batch and layout to plan for")->required();
  command->add_option("--profile", args->profile,
                      "Costs, as weft profile writes them; default: schedule.profile, or nominal ones");
  command
      ->add_option("--policy", args->policy,
                   "sequential, tutel, tutel_improved, pipemoe_lina, fsmoe_no_iio, fsmoe, flowmoe, weft (several with "
                   "commas between), or all")
      ->capture_default_str();
  command->add_option("--ranks", args->ranks, "Ranks to plan for; default: those of the launcher")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--ranks_per_node", args->ranks_per_node, "Ranks of a node; default: all on one")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--out", args->out, "Write the fastest plan here (configs/plan.proto); use it as schedule.plan");
  command->add_option("--set", args->sets, "Override a field: path.to.field=value (repeatable)")
      ->type_name("PATH=VALUE");
  command->add_flag("--json", args->json, "Print one JSON document");
  command->callback([args, &action] { action = [args] { return run_plan(*args); }; });
}

}  // namespace weft::tools
