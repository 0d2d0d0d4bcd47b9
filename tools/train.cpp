// tools/train.cpp - weft train
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>

#include "comm/factory.h"
#include "comm/topology.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "core/log.h"
#include "parallel/train/run_device.h"
#include "parallel/train/trainer.h"
#include "tools/command.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/number_checks.h"
#include "tools/train/console.h"
#include "tools/train/dry_run.h"
#include "tools/train/environment.h"
#include "tools/train/process.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;

struct TrainArguments {
  std::string config, run_dir, resume = "auto", init_from, progress = "auto";
  std::vector<std::string> sets;
  int log_every = 10, ranks = 0, ranks_per_node = 0;
  std::int64_t trace_step = 0;
  double comm_timeout_s = 0.0;
  bool dry_run = false, json = false;
};

parallel::TrainOptions train_options(const TrainArguments& args, const fs::path& run_dir,
                                     const parallel::RunConfig& config) {
  parallel::TrainOptions options;
  options.run_dir = run_dir;
  options.resume = args.resume == "auto"   ? parallel::Resume::kAuto
                   : args.resume == "none" ? parallel::Resume::kNone
                                           : parallel::Resume::kFrom;
  if (options.resume == parallel::Resume::kFrom) options.resume_from = args.resume;
  if (!args.init_from.empty()) {
    options.init_from = args.init_from;
    if (!fs::exists(options.init_from))
      throw Error(ErrorCode::kIo, str("--init_from: there is no ", args.init_from), "give a checkpoint folder");
  }
  options.config_text = to_text(config);
  options.plan_to_text = plan_to_text;
  options.plan_from_text = [](const std::string& text) { return plan_from_text(text, "the checkpoint's plan"); };
  options.stop_requested = stop_requested;
  return options;
}

int run_train(const TrainArguments& args) {
  install_signal_handlers();
  const parallel::RunConfig config = load_config(args.config, args.sets);
  if (args.dry_run) return dry_run(config, {args.ranks, args.ranks_per_node, args.json});
  const scheduler::CostModel costs = costs_of(config);

  const auto world = comm::make_world(std::chrono::milliseconds(static_cast<std::int64_t>(1e3 * args.comm_timeout_s)));
  set_log_rank(world->rank(), world->size());
  require_valid(config, world->size());
  const auto stream = make_inline_stream();
  const comm::Topology topology = comm::find_topology(*world, *stream);
  const fs::path run_dir = args.run_dir.empty() ? fs::path("runs") / config.name : fs::path(args.run_dir);
  parallel::TrainOptions options = train_options(args, run_dir, config);
  options.cost = costs;
  options.plan = plan_of(config);
  options.ranks_per_node = comm::ranks_of_each_node(topology);
  options.device = parallel::run_device(config, *world);

  Console console(config, world->rank(),
                  args.progress == "always"  ? Progress::kAlways
                  : args.progress == "never" ? Progress::kNever
                                             : Progress::kAuto,
                  args.log_every);
  const std::string environment = environment_text(*world, topology, config, options.device);
  if (world->rank() == 0) {
    std::error_code error;
    fs::create_directories(run_dir, error);
    if (error) throw Error(ErrorCode::kIo, str("cannot make the run folder ", run_dir.string(), ": ", error.message()));
    console.trace_step(args.trace_step);
    const std::string& profile = config.schedule.profile;
    console.use_run_folder(run_dir, {options.config_text, environment,
                                     profile.empty() ? std::string() : read_file(profile), options.device.kind});
  }
  const std::string warning = profile_warning(config, world->size(), options.ranks_per_node, options.device.kind);
  if (!warning.empty() && world->rank() == 0) console.on_warning(warning);
  if (args.trace_step > config.train.steps)
    console.on_warning(
        str("--trace ", args.trace_step, ": the run ends at step ", config.train.steps, ", so no step is traced"));
  const parallel::TrainOutcome outcome = parallel::train(config, *world, options, console);
  const comm::TrafficMatrix traffic = comm::gather_traffic(*world, *stream);
  if (world->rank() == 0 && console.num_steps() > 0)
    write_traffic(run_dir / "traffic.json", traffic, topology, console.num_steps());
  console.summary(outcome);
  if (outcome == parallel::TrainOutcome::kFinished) return kExitDone;
  if (world->rank() == 0) std::cerr << "stopped on request; the same command goes on from here\n";
  return kExitRequeue;
}

}  // namespace

void add_train(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("train", "Train a model, and leave a run folder behind");
  auto args = std::make_shared<TrainArguments>();
  command->add_option("config", args->config, "Config file (protobuf text format)")->required();
  command->add_option("--set", args->sets, "Override a field: path.to.field=value (repeatable)")
      ->type_name("PATH=VALUE");
  command->add_option("--run_dir", args->run_dir, "Run folder; default: runs/<name of the config>");
  command
      ->add_option("--resume", args->resume,
                   "auto: newest checkpoint of the run folder that verifies; none: start afresh; "
                   "DIR: a checkpoint or run folder")
      ->capture_default_str();
  command->add_option("--init_from", args->init_from,
                      "Take the weights of this checkpoint, with fresh optimizer and schedule");
  command->add_option("--log_every", args->log_every, "Steps between printed lines")
      ->capture_default_str()
      ->check(positive());
  command->add_option("--progress", args->progress, "Live line on a terminal")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "always", "never"}));
  command
      ->add_option("--comm_timeout", args->comm_timeout_s,
                   "Seconds a collective may wait for its peers before the job ends with status 79; 0: for ever")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e6));
  command
      ->add_option("--trace", args->trace_step,
                   "Write the tasks of this step, measured and simulated, to trace.json in the run folder")
      ->check(positive());
  command->add_flag("--dry_run", args->dry_run, "Print layout, memory and predicted time, and train nothing");
  command->add_option("--ranks", args->ranks, "With --dry_run: ranks to plan for; default: those of the launcher")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--ranks_per_node", args->ranks_per_node, "With --dry_run: ranks of a node; default: all on one")
      ->check(CLI::Range(1, 1 << 20));
  command->add_flag("--json", args->json, "With --dry_run: print one JSON document");
  command->footer(
      "Several ranks: mpirun -n 4 weft train CONFIG. Save and stop (status 75): kill -USR1 the mpirun process;\n"
      "mpirun gives ranks only about 1 s after SIGTERM. Under Slurm: #SBATCH --signal=USR1@120, and requeue on status "
      "75.");
  command->callback([args, &action] { action = [args] { return run_train(*args); }; });
}

}  // namespace weft::tools
