// tools/bench/bench_observability.cpp - what looking at a run costs it.
#include "tools/bench/bench_observability.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "comm/topology.h"
#include "core/log.h"
#include "kernels/gemm.h"
#include "parallel/train/probe_clock.h"
#include "parallel/train/trainer.h"
#include "scheduler/fit.h"
#include "tools/bench/bench_device.h"
#include "tools/bench/paired_ratio.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/train/console.h"
#include "tools/train/process.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using scheduler::quantile;

/// A run, and how long its steps take with all that is recorded of them.
class Variant {
 public:
  /// An empty `run_dir`: nothing is recorded.
  Variant(std::string name, parallel::RunConfig config, comm::Communicator& world, int ranks_per_node, Device device,
          fs::path run_dir)
      : name_(std::move(name)), config_(std::move(config)), world_(world) {
    options_.run_dir = std::move(run_dir);
    options_.resume = parallel::Resume::kNone;
    options_.cost = costs_of(config_);
    options_.ranks_per_node = ranks_per_node;
    options_.device = device;
    const bool records = !options_.run_dir.empty();
    if (records) console_ = std::make_unique<Console>(config_, world.rank(), Progress::kSilent, 1);
    if (records && world.rank() == 0) {
      fs::remove_all(options_.run_dir);
      fs::create_directories(options_.run_dir);
      console_->use_run_folder(options_.run_dir, {options_.config_text, "{}\n", "", options_.device.kind});
    }
    parallel::TrainObserver& observer = records ? *console_ : nobody_;
    run_ = parallel::start_training(config_, world, options_, observer);
  }
  Variant(const Variant&) = delete;
  Variant& operator=(const Variant&) = delete;

  void step() {
    comm::barrier(world_, *stream_);
    const auto start = std::chrono::steady_clock::now();
    static_cast<void>(run_->step());
    step_ms_.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::vector<double>& step_ms() { return step_ms_; }

 private:
  std::string name_;
  parallel::RunConfig config_;
  comm::Communicator& world_;
  parallel::TrainOptions options_;
  parallel::TrainObserver nobody_;
  std::unique_ptr<Console> console_;
  std::unique_ptr<parallel::TrainingRun> run_;
  std::unique_ptr<Stream> stream_ = make_inline_stream();
  std::vector<double> step_ms_;
};

void print(const nlohmann::ordered_json& facts) {
  std::printf("%-12s %10s   %s\n", "recorded", "median ms", "over nothing (95 %)");
  for (const auto& [name, row] : facts["variants"].items())
    std::printf("%-12s %10.2f   %+.2f %% (%+.2f .. %+.2f)\n", name.c_str(), row["median_ms"].get<double>(),
                100.0 * row["cost"].get<double>(), 100.0 * row["cost_interval"][0].get<double>(),
                100.0 * row["cost_interval"][1].get<double>());
  std::printf("%s on %s, %s; intervals: bootstrap over rounds\n", counted(facts["rounds"], "round").c_str(),
              counted(facts["ranks"], "rank").c_str(), facts["device"].get<std::string>().c_str());
}

}  // namespace

int bench_observability(const BenchObservabilityOptions& o, bool as_json) {
  parallel::RunConfig config = load_config(o.config, o.sets);
  if (o.device) config.parallel.device = *o.device;
  config.train.steps = o.warmup + o.rounds;
  config.train.validate_every = 0;
  config.data.val.clear();
  config.checkpoint.every = 0;
  const auto world = comm::make_world();
  set_log_rank(world->rank(), world->size());
  kernels::set_blas_threads(1);
  require_valid(config, world->size());
  const int ranks_per_node = comm::ranks_of_each_node(comm::find_topology(*world, *make_inline_stream()));
  const Device device = bench_device(config.parallel.device, *world);

  std::vector<std::unique_ptr<Variant>> variants;
  const auto add = [&](const char* name, const parallel::MetricsConfig& metrics, bool records) {
    config.metrics = metrics;
    const fs::path run_dir = records ? fs::path(o.run_dir) / name : fs::path();
    variants.push_back(std::make_unique<Variant>(name, config, *world, ranks_per_node, device, run_dir));
  };
  add("nothing", {.router_every = 0, .tensorboard = false, .prometheus = false}, false);
  add("metrics", {.router_every = 1, .tensorboard = false, .prometheus = false}, true);
  add("everything", {.router_every = 1, .tensorboard = true, .prometheus = true}, true);
  for (int round = 0; round < o.warmup + o.rounds; ++round) {
    if (round == o.warmup)
      for (const auto& v : variants) v->step_ms().clear();
    for (const auto& v : variants) v->step();
  }
  for (const auto& v : variants) parallel::agree(*world, v->step_ms());  // a step takes as long as its last rank
  if (world->rank() != 0) return kExitDone;

  nlohmann::ordered_json facts{{"ranks", world->size()}, {"device", device_name(device)}, {"rounds", o.rounds}};
  for (const auto& v : variants) {
    const PairedRatio ratio = paired_ratio(v->step_ms(), variants.front()->step_ms());
    facts["variants"][v->name()] = {{"median_ms", quantile(v->step_ms(), 0.5)},
                                    {"cost", ratio.ratio - 1.0},
                                    {"cost_interval", {ratio.low - 1.0, ratio.high - 1.0}},
                                    {"step_ms", v->step_ms()}};
  }
  if (as_json)
    std::cout << facts.dump(2) << "\n";
  else
    print(facts);
  return kExitDone;
}

}  // namespace weft::tools
