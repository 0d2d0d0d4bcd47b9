#include "parallel/train/probes.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "kernels/gemm.h"
#include "parallel/train/probe_links.h"
#include "parallel/train/probe_step.h"
#include "parallel/train/run_setup.h"

namespace weft::parallel {
namespace {

using Clock = std::chrono::steady_clock;

/// Sizes that a step can come in: the config's own, and smaller and larger pieces for the slopes.
std::vector<StepVariant> variants_of(const RunConfig& config) {
  const int groups = std::max(1, config.train.micro_batch / config.model.moe.group_sequences);
  const int smaller = groups > 1 ? groups / 2 : 1, other = groups > 1 ? smaller : 2;
  std::vector<StepVariant> out{{1, 1, 0, 1, groups}, {2, 2, 1, 2, groups}, {4, 4, 0, 4, groups},
                               {1, 1, 0, 1, other},  {2, 4, 4, 3, other},  {1, 2, 2, 1, smaller}};
  const ScheduleConfig& s = config.schedule;
  out.push_back({s.forward_chunks, s.backward_chunks, s.weight_grad_pieces, s.gradient_slices, groups});
  return out;
}

/// All layers up to eight, in whole periods of the layer pattern, so that every kind of layer occurs.
ModelConfig probed_model(const ModelConfig& model, int most) {
  ModelConfig out = model;
  const int period = static_cast<int>(model.layer_pattern.size());
  out.layers = std::min(model.layers, std::max(period, most / period * period));
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
        comms_(world, mesh_),
        clock_(world, options.ranks_per_node) {}

  Profile run() {
    if (!config_.data.train.empty()) {
      data_.emplace(dataset_options(config_, config_.data.train));
      tokens_ = {&*data_, attend_mode(config_)};
    }
    note("bare collectives");
    const std::vector<scheduler::TaskSample> collectives = probe_collectives(comms_, mesh_, clock_, 9);
    note("steps of the model");
    probe_steps(8, 0.8);
    probe_steps(2, 1.0);  // what grows with the number of layers (gradient norm) gets a second size
    Profile out;
    out.cost = scheduler::fit_cost_model(times_.samples(world_), collectives);
    out.stretch = times_.stretch();
    out.wait_us = times_.wait_us();
    out.rank_loads = loads_;
    out.num_runs = static_cast<int>(loads_.size());
    note("pairs of streams");
    out.cost.machine.contention =
        probe_contention(world_, mesh_, config_.model.model_dim, config_.model.expert_hidden_dim);
    out.cost.machine.issue_us = probe_issue_us(world_);
    return out;
  }

 private:
  void note(const std::string& text) const {
    if (options_.on_progress) options_.on_progress(text);
  }
  /// Rank 0's clock decides for all.
  bool out_of_time(double share) const {
    std::int64_t late =
        std::chrono::duration<double>(Clock::now() - start_).count() > share * options_.time_limit_s ? 1 : 0;
    world_.broadcast(comm::as_buffer(&late, 1), 0, *make_inline_stream());
    return late != 0;
  }

  void probe_steps(int most_layers, double share) {
    constexpr int kRuns = 9;
    StepSpec spec = training_spec(config_, mesh_);
    spec.model = probed_model(config_.model, most_layers);
    if (spec.model.layers == last_layers_) return;
    last_layers_ = spec.model.layers;
    const ParameterTable table(spec.model, mesh_);
    ParameterStore<T> store(table, Device{}, config_.parallel.zero);
    initialize_weights(store, spec.model, config_.train.seed);
    std::vector<std::unique_ptr<StepProbe<T>>> probes;
    std::vector<int> numbers;
    for (const StepVariant& v : variants_of(config_)) {
      probes.push_back(std::make_unique<StepProbe<T>>(spec, v, config_.train.recompute, comms_, store, tokens_));
      static_cast<void>(probes.back()->run(clock_));  // first touch of all memory
      numbers.push_back(times_.add_step(probes.back()->graph(), world_));
    }
    for (int i = 0; i < kRuns && (i == 0 || !out_of_time(share)); ++i)  // all see the same drift of the machine
      for (std::size_t v = 0; v < probes.size(); ++v) {
        const StepTimes times = probes[v]->run(clock_);
        times_.add(numbers[v], times);
        loads_.push_back(times.rank_load);
      }
  }

  const RunConfig& config_;
  comm::Communicator& world_;
  const ProbeOptions& options_;
  Clock::time_point start_ = Clock::now();
  Mesh mesh_;
  MeshComms comms_;
  ProbeClock clock_;
  std::optional<TokenDataset> data_;
  ProbeTokens tokens_;
  TaskTimes times_;
  int last_layers_ = 0;
  std::vector<double> loads_;
};

}  // namespace

Profile measure_profile(const RunConfig& config, comm::Communicator& world, const ProbeOptions& options) {
  if (config.train.dtype == DType::kF64) return Measurement<double>(config, world, options).run();
  return Measurement<float>(config, world, options).run();
}

}  // namespace weft::parallel
