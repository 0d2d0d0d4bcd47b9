#include "parallel/train/probes.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>

#include "comm/topology.h"
#include "core/error.h"
#include "kernels/gemm.h"
#include "parallel/step/moe_gate_emission.h"
#include "parallel/train/probe_ctas.h"
#include "parallel/train/probe_links.h"
#include "parallel/train/probe_step.h"
#include "parallel/train/run_device.h"
#include "parallel/train/run_setup.h"

namespace weft::parallel {
namespace {

using Clock = std::chrono::steady_clock;

/// Four micro-batches of different sizes, in routing groups: quarters of the config's own, or one to four groups.
std::array<int, 4> group_counts(const RunConfig& config) {
  const int own = std::max(4, config.train.micro_batch / config.model.moe.group_sequences);
  return {own / 4, own / 2, 3 * own / 4, own};
}

/// How many of the variants below are run, however long they take: each kind of task occurs in them.
constexpr std::size_t kFewestVariants = 3;

/// The config's own step, then steps cut in other ways, small ones first: the large ones are left out when time is
/// short. Whatever the config's batch, what follows its rows, chunks, pieces of dW and slices comes in four sizes.
std::vector<StepVariant> variants_of(const RunConfig& config, bool can_pad) {
  const auto [a, b, c, d] = group_counts(config);
  const int own = std::max(1, config.train.micro_batch / config.model.moe.group_sequences);
  const ScheduleConfig& s = config.schedule;
  std::vector<StepVariant> out{{s.forward_chunks, s.backward_chunks, s.weight_grad_pieces, s.gradient_slices, own},
                               {1, 1, 0, 2, a},
                               {4, 3, 3, 4, a},
                               {2, 4, 4, 3, b},
                               {1, 2, 2, 1, b},
                               {2, 2, 0, 3, c},
                               {4, 4, 0, 2, c},
                               {1, 1, 1, 2, d},
                               {1, 1, 0, 1, d}};
  if (!can_pad || s.pad_capacity == CapacityPadding::kNever) return out;
  if (s.pad_capacity == CapacityPadding::kAlways) {
    for (StepVariant& v : out) v.padded = true;
    return out;
  }
  // Behind those that every plan needs: where time is short, padding is priced by its kinds of work.
  for (const StepVariant& v : {StepVariant{1, 1, 0, 1, a}, StepVariant{4, 4, 0, 1, b}, StepVariant{2, 2, 0, 1, c},
                               StepVariant{1, 1, 0, 1, d}}) {
    out.push_back(v);
    out.back().padded = true;
  }
  return out;
}

/// Four depths from all layers up to eight down, in whole periods of the layer pattern, so that every kind of layer
/// occurs. A short model has fewer.
std::vector<int> depths_of(const ModelConfig& model) {
  constexpr int kMost = 8;
  const int period = static_cast<int>(model.layer_pattern.size());
  const int most = std::min(model.layers, std::max(period, kMost / period * period)), periods = most / period;
  std::vector<int> out{most};
  for (const int quarters : {3, 2, 1})
    if (const int layers = std::max(1, periods * quarters / 4) * period; layers < out.back()) out.push_back(layers);
  return out;
}

template <class T>
class Measurement {
 public:
  Measurement(const RunConfig& config, comm::Communicator& world, const ProbeOptions& options)
      : config_(config),
        world_(world),
        options_(options),
        mesh_(make_mesh(world.size(), world.rank(), mesh_options(config, options.ranks_per_node))),
        cta_samples_(measure_ctas()),
        comms_(world, mesh_, options.device, cta_budgets(config, cta_samples_)),
        clock_(world, options.ranks_per_node) {}

  Profile run() {
    if (!config_.data.train.empty()) {
      data_.emplace(dataset_options(config_, config_.data.train));
      tokens_ = {&*data_, attend_mode(config_)};
    }
    note("bare collectives");
    const std::vector<scheduler::TaskSample> collectives =
        probe_collectives(comms_, mesh_, clock_, kRuns, 0.2 * options_.time_limit_s, options_.device);
    note("steps of the model");
    const StepSpec spec = training_spec(config_, mesh_, costs_on(options_.device, {}).machine);
    const std::vector<StepVariant> variants = variants_of(config_, can_pad(spec));
    const std::vector<int> depths = depths_of(config_.model);
    // All cuts of a shallow model: parameters that travel take no time from them. Then the config's own at other
    // depths, the full one first, for what grows with the number of layers (gradient norm).
    const bool has_more = depths.size() > 1;
    probe_steps(depths.back(), variants, kFewestVariants, has_more ? 0.6 : 1.0);
    for (std::size_t i = 0; i + 1 < depths.size(); ++i)
      probe_steps(depths[i], {variants[0], variants[1]}, i == 0 ? 1 : 0,
                  0.6 + 0.4 * double(i + 1) / double(depths.size() - 1));
    Profile out;
    const int ranks = comm::ranks_on_machine(world_, *make_inline_stream());
    double ranks_per_core = 1.0;  // a GPU's times hold what sharing it costs
    if (options_.device.kind == DeviceKind::kCpu)
      ranks_per_core =
          std::max(1.0, static_cast<double>(ranks) / static_cast<double>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))));
    out.cost = scheduler::fit_cost_model(times_.samples(world_, ranks_per_core), collectives);
    out.cost.machine.ranks_per_core = ranks_per_core;
    out.cost = costs_on(options_.device, std::move(out.cost));
    out.stretch = times_.stretch();
    out.wait_us = times_.wait_us();
    out.rank_loads = loads_;
    out.num_runs = static_cast<int>(loads_.size());
    note("pairs of streams");
    out.cost.machine.contention = probe_contention<T>(comms_, mesh_, config_.model.model_dim,
                                                      config_.model.expert_hidden_dim, kRounds, options_.device);
    out.cost.machine.issue_us = probe_issue_us(world_, options_.device);
    out.cost.cta_samples = cta_samples_;
    return out;
  }

 private:
  void note(const std::string& text) const {
    if (options_.on_progress) options_.on_progress(text);
  }
  [[nodiscard]] double elapsed_s() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  /// Whether `more_s` from now are past that share of the time. Rank 0's clock decides for all.
  bool out_of_time(double share, double more_s) const {
    std::int64_t late = elapsed_s() + more_s > share * options_.time_limit_s ? 1 : 0;
    world_.broadcast(comm::as_buffer(&late, 1), 0, *make_inline_stream());
    return late != 0;
  }

  /// First of all: everything else is measured with the budgets that training will choose from these.
  [[nodiscard]] std::vector<scheduler::CtaSample> measure_ctas() const {
    if (comm::find_transport(world_, options_.device) != comm::Transport::kNccl) return {};
    note("budgets of CTAs");
    const ModelConfig& model = config_.model;
    const ExpertSize expert{model.model_dim, model.expert_hidden_dim, model.family == ModelFamily::kMixtral ? 3 : 2};
    return probe_ctas<T>(world_, mesh_.ranks_per_node, expert, kCtaRounds, options_.device);
  }

  /// `fewest`: variants that are run whatever the time.
  void probe_steps(int layers, const std::vector<StepVariant>& variants, std::size_t fewest, double share) {
    StepSpec spec = training_spec(config_, mesh_, costs_on(options_.device, {}).machine);
    spec.model.layers = layers;
    const double begin_s = elapsed_s();
    if (fewest == 0 && out_of_time(share, 0.0)) return;
    const ParameterTable table(spec.model, mesh_);
    ParameterStore<T> store(table, options_.device, config_.parallel.zero);
    initialize_weights(store, spec.model, config_.train.seed);
    std::vector<std::unique_ptr<StepProbe<T>>> probes;
    std::vector<int> numbers;
    double round_s = 0.0;
    for (const StepVariant& v : variants) {
      const double so_far_s = elapsed_s() - begin_s;  // a round of runs takes about that long, too
      if (probes.size() >= std::max<std::size_t>(1, fewest) && out_of_time(share, so_far_s)) break;
      probes.push_back(
          std::make_unique<StepProbe<T>>(spec, v, config_.train.recompute, comms_, store, tokens_, options_.device));
      static_cast<void>(probes.back()->run(clock_));  // first touch of all memory
      numbers.push_back(times_.add_step(probes.back()->graph(), world_));
    }
    for (int i = 0; i < kRuns && (i == 0 || !out_of_time(share, round_s)); ++i) {
      const double round_begin_s = elapsed_s();
      for (std::size_t v = 0; v < probes.size(); ++v) {  // all see the same drift of the machine
        const StepTimes times = probes[v]->run(clock_);
        times_.add(numbers[v], times);
        loads_.push_back(times.rank_load);
      }
      round_s = elapsed_s() - round_begin_s;
    }
  }

  static constexpr int kRuns = 9, kRounds = 5, kCtaRounds = 3;
  const RunConfig& config_;
  comm::Communicator& world_;
  const ProbeOptions& options_;
  Mesh mesh_;
  std::vector<scheduler::CtaSample> cta_samples_;
  Clock::time_point start_ = Clock::now();  // behind the budgets of CTAs, which have no limit
  MeshComms comms_;
  ProbeClock clock_;
  std::optional<TokenDataset> data_;
  ProbeTokens tokens_;
  TaskTimes times_{options_.device};
  std::vector<double> loads_;
};

}  // namespace

Profile measure_profile(const RunConfig& config, comm::Communicator& world, const ProbeOptions& options) {
  if (config.train.dtype == DType::kF64) return Measurement<double>(config, world, options).run();
  if (config.train.dtype == DType::kBF16) return Measurement<BF16>(config, world, options).run();
  return Measurement<float>(config, world, options).run();
}

}  // namespace weft::parallel
