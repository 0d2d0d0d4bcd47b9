// tools/bench/bench_policies.cpp - the same training under several policies, interleaved.
#include "tools/bench/bench_policies.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "comm/topology.h"
#include "core/atomic_file.h"
#include "core/error.h"
#include "core/log.h"
#include "kernels/gemm.h"
#include "parallel/train/probe_clock.h"
#include "parallel/train/probes.h"
#include "parallel/train/trainer.h"
#include "scheduler/fit.h"
#include "tools/bench/bench_device.h"
#include "tools/bench/paired_ratio.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"
#include "tools/exit_status.h"
#include "tools/simulate/policies.h"
#include "tools/train/prediction.h"
#include "tools/train/process.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using parallel::RunPlan;
using scheduler::PolicyKind;
using scheduler::quantile;

/// One policy's run and what its steps took.
class Contestant final : public parallel::TrainObserver {
 public:
  Contestant(PolicyKind policy, parallel::RunConfig config, comm::Communicator& world, const scheduler::CostModel& cost,
             int ranks_per_node, Device device)
      : name_(to_string(policy)), config_(std::move(config)) {
    config_.schedule.policy = static_cast<parallel::SchedulePolicy>(static_cast<int>(policy) + 1);
    options_.resume = parallel::Resume::kNone;
    options_.cost = cost;
    options_.ranks_per_node = ranks_per_node;
    options_.device = device;
    run_ = parallel::start_training(config_, world, options_, *this);
  }
  Contestant(const Contestant&) = delete;
  Contestant& operator=(const Contestant&) = delete;

  void step() { static_cast<void>(run_->step()); }
  /// The steps so far were to warm up.
  void forget_steps() {
    step_ms_.clear();
    exposed_ms_.clear();
    for (auto& pair : overlap_ms_) pair.clear();
  }
  void on_step(const parallel::StepReport& report, const scheduler::Graph& graph,
               const scheduler::Timeline& measured) override {
    step_ms_.push_back(report.step_ms);
    losses_.push_back(report.result.loss);
    exposed_ms_.push_back(scheduler::exposed_comm_us(graph, measured) / 1e3);
    const auto overlap = scheduler::overlap_us(graph, measured);
    overlap_ms_[0].push_back(overlap[0][1] / 1e3);
    overlap_ms_[1].push_back(overlap[0][2] / 1e3);
    overlap_ms_[2].push_back(overlap[1][2] / 1e3);
    graph_ = &graph;
    last_ = measured;
    last_step_ = report.step;
  }
  void write_trace_to(const std::filesystem::path& folder) const {
    write_trace((folder / (name_ + ".trace.json")).string(), run_->plan(), {graph_, &last_, last_step_});
  }

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const RunPlan& plan() const { return run_->plan(); }
  [[nodiscard]] std::vector<double>& step_ms() { return step_ms_; }
  [[nodiscard]] const std::vector<double>& losses() const { return losses_; }
  [[nodiscard]] double exposed_ms() const { return quantile(exposed_ms_, 0.5); }
  /// compute with intra, compute with inter, intra with inter.
  [[nodiscard]] double overlap_ms(std::size_t pair) const { return quantile(overlap_ms_[pair], 0.5); }

 private:
  std::string name_;
  parallel::RunConfig config_;
  parallel::TrainOptions options_;
  std::unique_ptr<parallel::TrainingRun> run_;
  std::vector<double> step_ms_, losses_, exposed_ms_;
  std::array<std::vector<double>, 3> overlap_ms_;
  const scheduler::Graph* graph_ = nullptr;
  scheduler::Timeline last_;
  std::int64_t last_step_ = 0;
};

/// Measured here and now, unless a file is named.
scheduler::CostModel find_costs(const parallel::RunConfig& config, comm::Communicator& world, int ranks_per_node,
                                Device device, const std::string& out) {
  if (!config.schedule.profile.empty()) return costs_of(config);
  parallel::ProbeOptions options;
  options.ranks_per_node = ranks_per_node;
  options.device = device;
  parallel::Profile profile = parallel::measure_profile(config, world, options);
  profile.cost.source = "measured before the runs";
  profile.cost.measured = true;
  if (!out.empty() && world.rank() == 0)
    write_file(out, costs_to_text(profile.cost, profile.rank_loads,
                                  Measurement{.ranks = world.size(),
                                              .ranks_per_node = ranks_per_node,
                                              .stretch = profile.stretch,
                                              .runs = profile.num_runs,
                                              .device = device.kind,
                                              .device_name = device_name(device),
                                              .dtype = config.train.dtype}));
  return profile.cost;
}

/// Largest relative difference of any two policies' losses at the same step.
double loss_difference(const std::vector<std::unique_ptr<Contestant>>& contestants) {
  double out = 0.0;
  const std::vector<double>& base = contestants.front()->losses();
  for (const auto& c : contestants)
    for (std::size_t i = 0; i < base.size(); ++i)
      out = std::max(out, std::abs(c->losses()[i] - base[i]) / std::abs(base[i]));
  return out;
}

nlohmann::ordered_json row_of(Contestant& c, Contestant* sequential, Contestant* fsmoe) {
  const double median = quantile(c.step_ms(), 0.5);
  nlohmann::ordered_json row{{"median_ms", median},
                             {"quartiles_ms", {quantile(c.step_ms(), 0.25), quantile(c.step_ms(), 0.75)}},
                             {"predicted_ms", c.plan().predicted_ms},
                             {"error", c.plan().predicted_ms / median - 1.0}};
  const auto compare = [&](const char* name, Contestant* other) {
    if (other == nullptr) return;
    const PairedRatio ratio = paired_ratio(other->step_ms(), c.step_ms());
    row[name] = ratio.ratio;
    row[std::string(name) + "_interval"] = {ratio.low, ratio.high};
  };
  compare("over_sequential", sequential);
  compare("over_fsmoe", fsmoe);
  row["exposed_comm_ms"] = c.exposed_ms();
  row["overlap_ms"] = {
      {"compute_intra", c.overlap_ms(0)}, {"compute_inter", c.overlap_ms(1)}, {"intra_inter", c.overlap_ms(2)}};
  row["tasks"] = c.plan().num_tasks;
  row["step_ms"] = c.step_ms();
  row["losses"] = c.losses();
  return row;
}

void print(const nlohmann::ordered_json& facts) {
  std::printf("%-16s %9s %9s %7s  %-22s %-22s %8s   overlap ms: compute+intra compute+inter intra+inter\n", "policy",
              "median ms", "predicted", "error", "over sequential", "over fsmoe", "exposed");
  for (const auto& [name, row] : facts["policies"].items()) {
    const auto ratio = [&](const char* key) {
      char text[64] = "-";
      if (row.contains(key)) {
        const auto& interval = row[std::string(key) + "_interval"];
        std::snprintf(text, sizeof text, "%.3f (%.3f .. %.3f)", row[key].get<double>(), interval[0].get<double>(),
                      interval[1].get<double>());
      }
      return std::string(text);
    };
    const auto& overlap = row["overlap_ms"];
    std::printf("%-16s %9.1f %9.1f %+6.1f%%  %-22s %-22s %8.1f   %25.1f %13.1f %11.1f\n", name.c_str(),
                row["median_ms"].get<double>(), row["predicted_ms"].get<double>(), 100.0 * row["error"].get<double>(),
                ratio("over_sequential").c_str(), ratio("over_fsmoe").c_str(), row["exposed_comm_ms"].get<double>(),
                overlap["compute_intra"].get<double>(), overlap["compute_inter"].get<double>(),
                overlap["intra_inter"].get<double>());
  }
  std::printf("%s on %s of %s, %s; intervals: 95 %%, bootstrap over rounds; losses equal to %.1e\n",
              counted(facts["rounds"], "round").c_str(), counted(facts["ranks"], "rank").c_str(),
              counted(facts["nodes"], "node").c_str(), facts["device"].get<std::string>().c_str(),
              facts["loss_difference"].get<double>());
}

}  // namespace

int bench_policies(const BenchPoliciesOptions& o, bool as_json) {
  parallel::RunConfig config = load_config(o.config, o.sets);
  if (!o.profile.empty()) config.schedule.profile = o.profile;
  if (o.device) config.parallel.device = *o.device;
  config.train.steps = o.warmup + o.rounds;
  config.train.validate_every = 0;
  config.data.val.clear();
  config.checkpoint.every = 0;
  const std::vector<PolicyKind> policies = policies_named(o.policy);
  const auto world = comm::make_world();
  set_log_rank(world->rank(), world->size());
  kernels::set_blas_threads(1);
  require_valid(config, world->size());
  const comm::Topology topology = comm::find_topology(*world, *make_inline_stream());
  const Device device = bench_device(config.parallel.device, *world);
  const int ranks_per_node = comm::ranks_of_each_node(topology);
  const scheduler::CostModel cost = find_costs(config, *world, ranks_per_node, device, o.profile_out);

  std::vector<std::unique_ptr<Contestant>> contestants;
  Contestant *sequential = nullptr, *fsmoe = nullptr;
  for (const PolicyKind policy : policies) {
    contestants.push_back(std::make_unique<Contestant>(policy, config, *world, cost, ranks_per_node, device));
    if (policy == PolicyKind::kSequential) sequential = contestants.back().get();
    if (policy == PolicyKind::kFsMoe) fsmoe = contestants.back().get();
  }
  for (int round = 0; round < o.warmup + o.rounds; ++round) {
    if (round == o.warmup)
      for (const auto& c : contestants) c->forget_steps();
    for (const auto& c : contestants) c->step();
  }
  for (const auto& c : contestants) parallel::agree(*world, c->step_ms());  // a step takes as long as its last rank
  if (world->rank() != 0) return kExitDone;

  nlohmann::ordered_json facts{{"ranks", world->size()},        {"nodes", topology.num_nodes},
                               {"device", device_name(device)}, {"rounds", o.rounds},
                               {"costs", cost.source},          {"loss_difference", loss_difference(contestants)}};
  for (const auto& c : contestants) facts["policies"][c->name()] = row_of(*c, sequential, fsmoe);
  if (!o.trace_dir.empty()) {
    std::filesystem::create_directories(o.trace_dir);
    for (const auto& c : contestants) c->write_trace_to(o.trace_dir);
  }
  if (as_json)
    std::cout << facts.dump(2) << "\n";
  else
    print(facts);
  return kExitDone;
}

}  // namespace weft::tools
