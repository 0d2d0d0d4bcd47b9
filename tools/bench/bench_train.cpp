// tools/bench/bench_train.cpp - weft bench train: how much of the machine's own GEMM rate a whole training step
// reaches.
#include "tools/bench/bench_train.h"

#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <vector>

#include "comm/factory.h"
#include "core/rng.h"
#include "kernels/gemm.h"
#include "parallel/step/step_builder.h"
#include "scheduler/order.h"
#include "tools/train/text.h"

namespace weft::tools {
namespace {

using namespace weft::parallel;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Best of a few square products of 1536: the rate that the BLAS reaches when nothing is in its way.
double gemm_gflops() {
  constexpr std::int64_t n = 1536;
  std::vector<float> a(n * n, 0.5F), b(n * n, 0.25F), c(n * n);
  const auto stream = make_inline_stream();
  double best = 0.0;
  for (int i = 0; i < 3; ++i) {
    const auto start = Clock::now();
    kernels::gemm<float>(*stream, {c.data(), n, n}, Matrix<const float>(a.data(), n, n), kernels::Transpose::kNo,
                         Matrix<const float>(b.data(), n, n), kernels::Transpose::kYes);
    best = std::max(best, 2.0 * n * n * n / seconds_since(start) / 1e9);
  }
  return best;
}

ModelConfig bench_model(const BenchTrainOptions& o) {
  ModelConfig model;
  model.layers = o.layers;
  model.model_dim = o.model_dim;
  model.expert_hidden_dim = o.expert_hidden_dim;
  model.heads = model.kv_heads = o.model_dim / 64;
  model.vocab_size = o.vocab_size;
  model.moe.experts = o.experts;
  model.moe.top_k = o.top_k;
  return model;
}

/// One rank, one thread, made-up tokens.
class Bench {
 public:
  Bench(const BenchTrainOptions& o, comm::Communicator& world)
      : options_(o),
        model_(bench_model(o)),
        mesh_(make_mesh(1, 0, {})),
        comms_(world, mesh_),
        table_(model_, mesh_),
        store_(table_, Device{}, true),
        spec_{model_, mesh_, {1, o.batch, o.sequence_length, 1}, StepMode::kTrain, true} {
    initialize_weights(store_, model_, 1);
    const scheduler::Shape shape = uniform_shape(model_.layers, {});
    const scheduler::Graph graph = emit_step(spec_, shape, DType::kF32);
    step_ = std::make_unique<BoundStep<float>>(spec_, scheduler::sequential_plan(graph, shape),
                                               Runtime<float>{&store_, &comms_, &state_, nullptr});
    state_.num_valid_tokens = state_.num_tokens = double(o.batch) * o.sequence_length;
    state_.num_groups = o.batch;
    state_.clip_norm = 1.0;
    state_.optimizer.lr = 1e-4;
    make_tokens();
  }
  double run(int number, std::vector<double>& stage_ms) {
    state_.step = number;
    const auto start = Clock::now();
    const scheduler::Timeline timeline = step_->run();
    const double seconds = seconds_since(start);
    stage_ms.assign(scheduler::kNumStages, 0.0);
    for (scheduler::TaskId t = 0; t < step_->graph().num_tasks(); ++t)
      stage_ms[static_cast<std::size_t>(step_->graph().tasks[t].stage)] +=
          (timeline.end_us[t] - timeline.start_us[t]) / 1e3;
    return seconds;
  }
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
  ParameterStore<float> store_;
  StepSpec spec_;
  StepState state_;
  std::vector<std::int32_t> tokens_, positions_, segments_;
  std::unique_ptr<BoundStep<float>> step_;
};

nlohmann::ordered_json measure(const BenchTrainOptions& o) {
  nlohmann::ordered_json out;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    Bench bench(o, world);
    std::vector<double> stages, seconds, rates, ratios;
    std::vector<std::vector<double>> stage_runs;
    bench.run(1, stages);                // first touch of all memory
    for (int i = 0; i < o.steps; ++i) {  // interleaved, so that both sides see the same drift of the machine
      rates.push_back(gemm_gflops());
      seconds.push_back(bench.run(i + 2, stages));
      stage_runs.push_back(stages);
      ratios.push_back(bench.step_flops() / seconds.back() / 1e9 / rates.back());
    }
    const double step = median(seconds);
    out = {{"utilization", median(ratios)},
           {"utilization_min", *std::min_element(ratios.begin(), ratios.end())},
           {"utilization_max", *std::max_element(ratios.begin(), ratios.end())},
           {"model_gflops", bench.step_flops() / step / 1e9},
           {"gemm_gflops", median(rates)},
           {"step_ms", step * 1e3},
           {"steps", o.steps},
           {"flops_per_step", bench.step_flops()},
           {"flops_formula",
            "per token 6 * (active matrix parameters, output projection included, embedding look-up not) + 12 * layers "
            "* heads * "
            "head_dim * (S + 1) / 2"},
           {"vocab_size", o.vocab_size},
           {"model",
            {{"layers", o.layers},
             {"model_dim", o.model_dim},
             {"expert_hidden_dim", o.expert_hidden_dim},
             {"experts", o.experts},
             {"top_k", o.top_k},
             {"batch", o.batch},
             {"sequence_length", o.sequence_length}}}};
    for (int s = 0; s < scheduler::kNumStages; ++s) {
      std::vector<double> runs;
      for (const auto& run : stage_runs) runs.push_back(run[static_cast<std::size_t>(s)]);
      if (median(runs) > 0) out["stage_ms"][std::string(to_string(static_cast<scheduler::Stage>(s)))] = median(runs);
    }
  });
  return out;
}

}  // namespace

int bench_train(const BenchTrainOptions& options, bool as_json) {
  kernels::set_blas_threads(1);
  const nlohmann::ordered_json facts = measure(options);
  if (as_json) {
    std::cout << facts.dump(2) << "\n";
    return 0;
  }
  std::cout << "utilization  " << fixed(facts["utilization"], 3) << " (" << fixed(facts["utilization_min"], 3) << " to "
            << fixed(facts["utilization_max"], 3) << " over " << options.steps
            << " steps): " << fixed(facts["model_gflops"], 1) << " model GFLOP/s of " << fixed(facts["gemm_gflops"], 1)
            << " in SGEMM, one rank, one thread\n"
            << "step         " << fixed(facts["step_ms"], 1) << " ms, " << human_count(facts["flops_per_step"])
            << " model FLOPs, vocabulary " << options.vocab_size << "\n"
            << "formula      " << facts["flops_formula"].get<std::string>() << "\n";
  for (const auto& [stage, ms] : facts["stage_ms"].items())
    std::cout << "  " << stage << std::string(18 - stage.size(), ' ') << fixed(ms, 2) << " ms  "
              << fixed(100 * ms.get<double>() / facts["step_ms"].get<double>(), 1) << "%\n";
  return 0;
}

}  // namespace weft::tools
