// parallel/train/run_config.h - everything a training run is told. Plain structs: the defaults stand here and nowhere
// else; tools/ fills them from a config file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "parallel/model/model_config.h"
#include "scheduler/executor.h"
#include "scheduler/fit.h"
#include "scheduler/plan.h"

namespace weft::parallel {

enum class LrSchedule { kConstant, kCosine, kLinear, kWsd };
using scheduler::Recompute;

struct OptimizerConfig {
  double lr = 1e-3;           ///< Peak learning rate.
  double min_lr_ratio = 0.1;  ///< Final learning rate over peak.
  int warmup_steps = 0;
  LrSchedule schedule = LrSchedule::kCosine;
  double wsd_decay_fraction = 0.2;  ///< kWsd: last fraction of the steps, decaying linearly.
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;  ///< Decoupled; never on norms and biases.
  double clip_norm = 1.0;     ///< Global gradient norm; 0: no clipping.
  friend bool operator==(const OptimizerConfig&, const OptimizerConfig&) = default;
};

struct TrainConfig {
  int steps = 100;
  int global_batch = 16;      ///< Sequences per step over all ranks; a multiple of DP * micro_batch.
  int micro_batch = 2;        ///< Sequences per rank and micro-batch; a multiple of moe.group_sequences.
  int sequence_length = 128;  ///< S
  std::uint64_t seed = 1;
  DType dtype = DType::kF32;  ///< Of rows and weights: kF32, kF64, or kBF16 with F32 masters, gradients and routers.
  OptimizerConfig optimizer;
  int validate_every = 0;       ///< Steps between validations; 0: only at the end (when there is validation data).
  int validate_sequences = 64;  ///< Fixed validation set: the first sequences of data.val; 0: all.
  Recompute recompute = Recompute::kNone;
  double time_limit_s = 0.0;  ///< Wall time after which the run saves and stops (exit code 75); 0: none.
  friend bool operator==(const TrainConfig&, const TrainConfig&) = default;
};

/// kAuto: a GPU where every rank has one and the config can run there, else the CPU.
enum class DeviceChoice : std::uint8_t { kAuto, kCpu, kCuda };

struct ParallelConfig {
  int expert = 1;        ///< EP: ranks that share one set of experts. Divides moe.experts and the world.
  int expert_shard = 1;  ///< ESP: ranks that share one expert's hidden width; divides expert_hidden_dim.
  /// Ranks that share a sequence and exchange attention heads for tokens (Ulysses). Divides model.heads.
  int sequence_heads = 1;
  /// Ranks, or groups of sequence_heads ranks, that share a sequence and pass keys and values round (ring attention).
  int sequence_ring = 1;
  bool zero = true;  ///< ZeRO-1: AdamW states sharded over each parameter's replicas.
  DispatcherKind dispatcher = DispatcherKind::kAllToAll;
  DeviceChoice device = DeviceChoice::kAuto;  ///< What training, profiling, evaluation and generation compute on.
  /// CTAs of NCCL's groups inside a node, and of those that reach beyond one (comm::CtaBudgets); 0: by the profile.
  int intra_node_ctas = 0, inter_node_ctas = 0;
  friend bool operator==(const ParallelConfig&, const ParallelConfig&) = default;
};

struct DataConfig {
  std::vector<std::string>
      train;  ///< Token files: llm.c .bin, or Megatron .bin/.idx (named without extension or by .bin).
  std::vector<std::string> val;
  bool attend_across_documents = false;  ///< Packed documents see one another.
  int end_of_text = -1;  ///< Token that starts a document in files that do not list their documents (llm.c); -1: none.
  friend bool operator==(const DataConfig&, const DataConfig&) = default;
};

struct CheckpointConfig {
  int every = 0;  ///< Steps between checkpoints; 0: off (not even at the end).
  int keep = 2;   ///< Newest checkpoints to keep; 0: all.
  friend bool operator==(const CheckpointConfig&, const CheckpointConfig&) = default;
};

struct MetricsConfig {
  int router_every = 0;      ///< Steps between records of each expert's tokens in metrics.jsonl; 0: never.
  bool tensorboard = false;  ///< Event files for TensorBoard in tb/.
  bool prometheus = false;   ///< metrics.prom, for the textfile collector of Prometheus' node_exporter.
  friend bool operator==(const MetricsConfig&, const MetricsConfig&) = default;
};

/// kManual: the cuts of the config in the order of emission; the others are scheduler::PolicyKind.
enum class SchedulePolicy : std::uint8_t {
  kManual,
  kSequential,
  kTutel,
  kTutelImproved,
  kPipeMoeLina,
  kFsMoeNoIio,
  kFsMoe,
  kFlowMoe,
  kWeft
};
/// kAuto: a CUDA graph on GPUs; on CPUs streams, unless the plan has one stream for all.
enum class ExecutorChoice : std::uint8_t { kAuto, kInline, kStreams, kCudaGraph };

/// Whether rows of MoE layers with capacities travel padded to them. kAuto (IF_FASTER): where that is predicted to be
/// faster.
enum class CapacityPadding : std::uint8_t { kAuto, kNever, kAlways };

struct ScheduleConfig {
  SchedulePolicy policy = SchedulePolicy::kManual;
  ExecutorChoice executor = ExecutorChoice::kAuto;
  std::string plan;               ///< A plan file to run instead (configs/plan.proto, `weft plan --out`); empty: none.
  double memory_limit_mib = 0.0;  ///< Of one rank's step: plans that need more are left out; 0: no limit.
  int forward_chunks = 1;         ///< kManual: r of every MoE layer, forward.
  int backward_chunks = 1;        ///< r of every MoE layer, backward.
  int weight_grad_pieces = 0;     ///< 0: expert dW inside the expert tasks; p: p tasks of their own per layer.
  int gradient_slices = 1;        ///< Pieces of each bucket's gradient reduction.
  CapacityPadding pad_capacity = CapacityPadding::kAuto;  ///< kManual: kAuto does not pad.
  std::string profile;  ///< Costs to plan and predict with (configs/cluster.proto); empty: nominal ones.
  double profile_min_r_squared = scheduler::kMinRSquared;  ///< A profile with a worse fit is refused.
  int replan = 0;  ///< Steps between looks for a faster plan by measured times; 0: never.
  friend bool operator==(const ScheduleConfig&, const ScheduleConfig&) = default;
};

struct RunConfig {
  std::string name = "run";
  ModelConfig model;
  TrainConfig train;
  ParallelConfig parallel;
  DataConfig data;
  CheckpointConfig checkpoint;
  ScheduleConfig schedule;
  MetricsConfig metrics;
  friend bool operator==(const RunConfig&, const RunConfig&) = default;
};

/// Every problem of `config` on `world_size` ranks, one line each: the field's path, its value, what is wrong, what to
/// change. Empty when it can run. Looks at no file.
[[nodiscard]] std::vector<std::string> validate(const RunConfig& config, int world_size);

}  // namespace weft::parallel
