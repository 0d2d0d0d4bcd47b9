// tests/support/step_harness.h - a few optimizer steps on made-up data, on ranks that are threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "parallel/step/step_builder.h"

namespace weft::test {

/// A training run without files. The batch is the same set of sequences whatever the layout.
struct StepCase {
  parallel::ModelConfig model;
  int world_size = 1;
  int ep_size = 1;
  int esp_size = 1;
  int sequence_heads = 1;
  int sequence_ring = 1;
  int ranks_per_node = 0;  ///< 0: all ranks on one node.
  parallel::DispatcherKind dispatcher = parallel::DispatcherKind::kAllToAll;
  bool sharded = true;
  int global_batch = 8;  ///< Sequences.
  int micro_batch = 2;
  int sequence_length = 8;
  bool documents = false;  ///< Sequences hold several documents each, of uneven lengths.
  int steps = 3;
  parallel::ShapeOptions shape;
  scheduler::ExecutorKind executor = scheduler::ExecutorKind::kInline;
  Device device = {};
  bool own_gpus = false;    ///< Rank r has the r-th GPU from `device` on, and collectives go through NCCL.
  bool host_apart = false;  ///< The host waits for routed counts, as beside a GPU (where it always does).
  /// 0: sequential; else a random order of the step's tasks, by this seed.
  std::uint64_t order_seed = 0;
  std::uint64_t seed = 1;
  const parallel::MoeHooks<double>* hooks = nullptr;  ///< Of f64 runs; the same on every rank.
  double lr = 1e-2;
  double clip_norm = 1.0;
  /// Called before each step, from 1, on every rank: what is to change from step to step.
  std::function<void(int step, parallel::StepState&)> before_step = {};
};

/// What a run left behind: per step, and the weights at the end by global name.
struct StepOutcome {
  std::vector<parallel::StepResult> steps;
  std::vector<std::pair<std::string, std::vector<double>>> weights;  ///< Sorted by name.
  std::int64_t num_grows = 0;
  std::int64_t num_tasks = 0;   ///< Of one rank's step.
  int num_recordings = 0;       ///< Of the rank that has most.
  int total_recordings = 0;     ///< Of all ranks.
  std::int64_t sent_bytes = 0;  ///< By all ranks in all steps.
};

/// Runs in f64 (T = double), f32 or BF16. Every rank's figures must agree bit for bit, else it throws kInternal.
template <class T>
[[nodiscard]] StepOutcome run_steps(const StepCase& c);

/// A small Mixtral-like model: 2 layers, 4 experts, top-2.
[[nodiscard]] parallel::ModelConfig small_mixtral();
/// A small GPT-2-MoE-like model: a dense layer, then a MoE layer.
[[nodiscard]] parallel::ModelConfig small_gpt2_moe();

/// The largest relative difference between two runs: losses, norms, balance losses, weights. What differs most goes to
/// `where`.
[[nodiscard]] double max_difference(const StepOutcome& a, const StepOutcome& b, std::string& where);

}  // namespace weft::test
