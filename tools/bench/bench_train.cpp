// tools/bench/bench_train.cpp - weft bench train: how much of a device's own GEMM rate a whole training step reaches,
// and how much of the step its streams have nothing to do.
#include "tools/bench/bench_train.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/factory.h"
#include "core/error.h"
#include "core/rng.h"
#include "kernels/gemm.h"
#include "parallel/step/step_builder.h"
#include "scheduler/fit.h"
#include "scheduler/order.h"
#include "tools/bench/bench_device.h"
#include "tools/bench/device_times.h"
#include "tools/exit_status.h"
#include "tools/train/process.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using namespace weft::parallel;
ModelConfig bench_model(const BenchTrainOptions& o) {
  ModelConfig model;
  model.layers = o.layers;
  model.model_dim = o.model_dim;
  model.expert_hidden_dim = o.expert_hidden_dim;
  model.heads = o.model_dim / o.head_dim;
  model.kv_heads = o.kv_heads > 0 ? o.kv_heads : model.heads;
  model.head_dim = o.head_dim;
  model.vocab_size = o.vocab_size;
  model.moe.experts = o.experts;
  model.moe.top_k = o.top_k;
  model.moe.capacity_factor = o.capacity_factor;
  return model;
}

/// One rank, made-up tokens.
template <class T>
class Bench {
 public:
  Bench(const BenchTrainOptions& o, comm::Communicator& world, Device device)
      : options_(o),
        model_(bench_model(o)),
        mesh_(make_mesh(1, 0, {})),
        comms_(world, mesh_, device),
        table_(model_, mesh_),
        store_(table_, device, true),
        spec_{model_, mesh_, {1, o.batch, o.sequence_length, 1}, StepMode::kTrain, true} {
    spec_.host_apart = device.kind != DeviceKind::kCpu;
    initialize_weights(store_, model_, 1);
    ShapeOptions shape_options;
    shape_options.padded = o.pad_capacity;
    const scheduler::Shape shape = uniform_shape(model_.layers, shape_options);
    const scheduler::Graph graph = emit_step(spec_, shape, dtype_of<T>);
    step_ = std::make_unique<BoundStep<T>>(spec_, scheduler::sequential_plan(graph, shape),
                                           Runtime<T>{&store_, &comms_, &state_, nullptr}, device,
                                           spec_.host_apart ? scheduler::ExecutorKind::kRecorded
                                                            : scheduler::ExecutorKind::kInline);  // as training has it
    state_.num_valid_tokens = state_.num_tokens = double(o.batch) * o.sequence_length;
    state_.num_groups = o.batch;
    state_.clip_norm = 1.0;
    state_.optimizer.lr = 1e-4;
    make_tokens();
  }
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  /// Seconds of the step; `timeline`: of its tasks.
  double run(int number, scheduler::Timeline& timeline) {
    state_.step = number;
    const auto start = std::chrono::steady_clock::now();
    timeline = step_->run();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  [[nodiscard]] const scheduler::Graph& graph() const { return step_->graph(); }
  /// Whether steps are launched as a CUDA graph.
  [[nodiscard]] bool is_recorded() const { return step_->num_recordings() > 0; }
  [[nodiscard]] double step_flops() const {
    return flops_per_token(model_, options_.sequence_length) * options_.batch * options_.sequence_length;
  }

 private:
  void make_tokens() {
    const Rng rng(1, RngPurpose::kTest);
    for (int b = 0; b < options_.batch; ++b)
      for (int s = 0; s < options_.sequence_length; ++s) {
        const auto at = static_cast<std::uint64_t>(b * options_.sequence_length + s);
        tokens_.push_back(static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(model_.vocab_size), at)));
        positions_.push_back(s);
        segments_.push_back(b);
      }
    state_.batches = {{tokens_.data(), tokens_.data(), positions_.data(), segments_.data()}};
  }

  BenchTrainOptions options_;
  ModelConfig model_;
  Mesh mesh_;
  MeshComms comms_;
  ParameterTable table_;
  ParameterStore<T> store_;
  StepSpec spec_;
  StepState state_;
  std::vector<std::int32_t> tokens_, positions_, segments_;
  std::unique_ptr<BoundStep<T>> step_;
};

/// What the measured steps took, a figure each.
struct Samples {
  std::vector<double> seconds, gemm_gflops, utilization, launch_gap;
  std::array<std::vector<double>, scheduler::kNumStages> stage_ms;

  void add_timeline(const scheduler::Graph& graph, const scheduler::Timeline& timeline) {
    const scheduler::StreamUse use = scheduler::stream_use(graph, timeline);
    launch_gap.push_back(use.idle_us / use.span_us);
    for (auto& stage : stage_ms) stage.push_back(0.0);
    for (scheduler::TaskId t = 0; t < graph.num_tasks(); ++t)
      stage_ms[static_cast<std::size_t>(graph.tasks[t].stage)].back() +=
          (timeline.end_us[t] - timeline.start_us[t]) / 1e3;
  }
};

void add_spread(nlohmann::ordered_json& out, const std::string& name, const std::vector<double>& values) {
  out[name] = scheduler::quantile(values, 0.5);
  out[name + "_min"] = *std::min_element(values.begin(), values.end());
  out[name + "_max"] = *std::max_element(values.begin(), values.end());
}

nlohmann::ordered_json facts_of(const BenchTrainOptions& o, Device device, const Samples& samples, double step_flops) {
  const double step_s = scheduler::quantile(samples.seconds, 0.5);
  nlohmann::ordered_json out{{"device", device_name(device)}, {"kind", name_of(device.kind)}, {"dtype", o.dtype}};
  add_spread(out, "utilization", samples.utilization);
  out["model_gflops"] = step_flops / step_s / 1e9;
  out["gemm_gflops"] = scheduler::quantile(samples.gemm_gflops, 0.5);
  out["gemm_side"] = o.gemm_side;
  out["step_ms"] = step_s * 1e3;
  add_spread(out, "launch_gap", samples.launch_gap);
  out["steps"] = o.steps;
  out["flops_per_step"] = step_flops;
  out["flops_formula"] =
      "per token 6 * (active matrix parameters, output projection included, embedding look-up not) + 12 * layers "
      "* heads * head_dim * (S + 1) / 2";
  out["vocab_size"] = o.vocab_size;
  out["model"] = {{"layers", o.layers},
                  {"model_dim", o.model_dim},
                  {"head_dim", o.head_dim},
                  {"kv_heads", bench_model(o).kv_heads},
                  {"expert_hidden_dim", o.expert_hidden_dim},
                  {"experts", o.experts},
                  {"top_k", o.top_k},
                  {"capacity_factor", o.capacity_factor},
                  {"padded", o.pad_capacity},
                  {"batch", o.batch},
                  {"sequence_length", o.sequence_length}};
  for (std::size_t s = 0; s < samples.stage_ms.size(); ++s)
    if (const double ms = scheduler::quantile(samples.stage_ms[s], 0.5); ms > 0)
      out["stage_ms"][std::string(to_string(static_cast<scheduler::Stage>(s)))] = ms;
  return out;
}

template <class T>
nlohmann::ordered_json measure(const BenchTrainOptions& o, comm::Communicator& world, Device device) {
  Bench<T> bench(o, world, device);
  const auto stream = device.kind == DeviceKind::kCpu ? make_inline_stream() : make_stream(device, "bench");
  Samples samples;
  scheduler::Timeline timeline;
  bench.run(1, timeline);              // first touch of all memory
  bench.run(2, timeline);              // recorded, where it can be
  for (int i = 0; i < o.steps; ++i) {  // interleaved, so that both sides see the same drift of the machine
    const std::vector<double> rates = gemm_flops_per_us<T>(*stream, o.gemm_side, 3);
    samples.gemm_gflops.push_back(*std::max_element(rates.begin(), rates.end()) / 1e3);
    samples.seconds.push_back(bench.run(i + 3, timeline));
    samples.utilization.push_back(bench.step_flops() / samples.seconds.back() / 1e9 / samples.gemm_gflops.back());
    samples.add_timeline(bench.graph(), timeline);
  }
  nlohmann::ordered_json out = facts_of(o, device, samples, bench.step_flops());
  out["recorded"] = bench.is_recorded();
  return out;
}

void require_fitting(const BenchTrainOptions& o) {
  const auto require = [](bool holds, const std::string& problem, const char* hint) {
    if (!holds) throw Error(ErrorCode::kInvalidArgument, problem, hint);
  };
  require(o.model_dim % o.head_dim == 0, str("--model_dim ", o.model_dim, " is no multiple of --head_dim ", o.head_dim),
          "a head is a part of the model width");
  const int heads = o.model_dim / o.head_dim;
  require(o.kv_heads == 0 || heads % o.kv_heads == 0, str("--kv_heads ", o.kv_heads, " of ", heads, " heads"),
          "a divisor of the heads, which are --model_dim / --head_dim");
  require(o.top_k <= o.experts, str("--top_k ", o.top_k, " of ", o.experts, " experts"),
          "choose fewer, or more experts");
  require(!o.pad_capacity || o.capacity_factor > 0, "--pad_capacity without a capacity",
          "--capacity_factor says what rows are padded to");
}

void print(const nlohmann::ordered_json& facts) {
  const auto percent = [&](const char* name) { return fixed(100 * facts[name].get<double>(), 2); };
  std::cout << facts["device"].get<std::string>() << ", " << facts["dtype"].get<std::string>() << ", one rank\n"
            << "utilization  " << fixed(facts["utilization"], 3) << " (" << fixed(facts["utilization_min"], 3) << " to "
            << fixed(facts["utilization_max"], 3) << " over " << counted(facts["steps"], "step")
            << "): " << fixed(facts["model_gflops"], 1) << " model GFLOP/s of " << fixed(facts["gemm_gflops"], 1)
            << " in a product of " << facts["gemm_side"] << "\n"
            << "step         " << fixed(facts["step_ms"], 1) << " ms, " << human_count(facts["flops_per_step"])
            << " model FLOPs, vocabulary " << facts["vocab_size"] << "\n"
            << "launch gap   " << percent("launch_gap") << "% (" << percent("launch_gap_min") << " to "
            << percent("launch_gap_max") << ") of the time from the first task to the last, no stream had one; "
            << (facts["recorded"].get<bool>() ? "launched as a CUDA graph" : "launched task by task") << "\n"
            << "formula      " << facts["flops_formula"].get<std::string>() << "\n";
  for (const auto& [stage, ms] : facts["stage_ms"].items())
    std::cout << "  " << stage << std::string(18 - stage.size(), ' ') << fixed(ms, 2) << " ms  "
              << fixed(100 * ms.get<double>() / facts["step_ms"].get<double>(), 1) << "%\n";
}

}  // namespace

int bench_train(const BenchTrainOptions& options, bool as_json) {
  require_fitting(options);
  kernels::set_blas_threads(1);
  BenchTrainOptions o = options;
  nlohmann::ordered_json facts;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    const Device device = bench_device(o.device, world);
    if (o.gemm_side == 0) o.gemm_side = device.kind == DeviceKind::kCpu ? 1536 : 4096;
    facts = o.dtype == "F64"    ? measure<double>(o, world, device)
            : o.dtype == "BF16" ? measure<BF16>(o, world, device)
                                : measure<float>(o, world, device);
  });
  if (as_json)
    std::cout << facts.dump(2) << "\n";
  else
    print(facts);
  return kExitDone;
}

}  // namespace weft::tools
