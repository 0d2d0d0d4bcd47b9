// parallel/train/trainer.h - a training run from config to last checkpoint.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "parallel/step/step_builder.h"
#include "parallel/train/run_config.h"
#include "scheduler/cost_model.h"
#include "scheduler/plan.h"
#include "scheduler/timeline.h"

namespace weft::parallel {

/// One step as it is reported. Times are this rank's; all else is the same on every rank.
struct StepReport {
  std::int64_t step = 0;
  StepResult result;
  double lr = 0.0;
  std::int64_t tokens = 0;  ///< Targets trained on so far.
  double step_ms = 0.0;
  double tokens_per_second = 0.0;      ///< Over all ranks.
  double model_tflops = 0.0;           ///< Model FLOPs (flops_per_token) per second, per rank, in 1e12.
  double predicted_ms = 0.0;           ///< What the plan's simulation said.
  double exposed_comm_fraction = 0.0;  ///< Share of the step in which only communication ran.
};

/// What the run is about to do, known before the first step.
struct RunPlan {
  Mesh mesh;
  scheduler::Plan plan;
  scheduler::MemoryUse memory;        ///< Of the training step, on this rank.
  std::int64_t validation_bytes = 0;  ///< Arena of the validation pass.
  std::int64_t num_tasks = 0;
  int num_micro_batches = 1;
  double predicted_ms = 0.0;
  scheduler::Timeline predicted;  ///< The simulated step.
  std::array<double, scheduler::kNumStages> predicted_stage_ms{};
  std::int64_t num_host_waits = 0;  ///< Times a step that the host waits for counts of routed rows.
  double exposed_host_ms = 0.0;     ///< What these waits and issuing add to predicted_ms.
  std::string cost_source;
};

/// Emits and plans a step of `config` as rank `world_rank` of `world_size` would: no device, communicator or memory.
[[nodiscard]] RunPlan plan_run(const RunConfig& config, int world_size, int world_rank, int ranks_per_node,
                               const scheduler::CostModel& cost);
/// The plan of config.schedule.policy for the step of a rank, which a job's rank 0 decides for all.
[[nodiscard]] scheduler::Plan make_plan(const RunConfig& config, const Mesh& mesh, const scheduler::CostModel& cost);
/// The same with a plan made before. Throws kInvalidArgument with what does not fit when it is for another model,
/// layout or batch, by the lines of Plan::made_for that differ.
[[nodiscard]] RunPlan take_plan(const RunConfig& config, const Mesh& mesh, const scheduler::CostModel& cost,
                                scheduler::Plan plan);

/// One line about settings that `plan`, which was made before, runs otherwise than `config` says; empty when there are
/// none.
[[nodiscard]] std::string overridden_settings(const RunConfig& config, const scheduler::Plan& plan);

/// What a look for a faster plan has found (schedule.replan).
struct Replan {
  std::int64_t step = 0;      ///< After which it was made.
  std::string entry;          ///< One JSON object, see Replanner::log.
  bool changes = false;       ///< The run goes on with another plan.
  RunPlan plan;               ///< To go on with, priced with `cost`.
  scheduler::CostModel cost;  ///< In force from now on: refitted to measured steps.
};

/// `decide` runs on rank 0 alone; every rank gets its plan, or throws its error. Collective.
[[nodiscard]] scheduler::Plan agree_on_plan(comm::Communicator& world, const std::function<scheduler::Plan()>& decide);

/// What the fullest rank needs for a step, of parameters, states, gradients and arena.
struct PeakMemory {
  std::int64_t bytes = 0;
  int rank = 0;  ///< The lowest that needs as much.
};
/// Of all ranks of a job that does not run: emits every rank's step.
[[nodiscard]] PeakMemory peak_memory(const RunConfig& config, const Mesh& mesh, const scheduler::Machine& machine,
                                     const scheduler::Plan& plan);
/// Of all ranks of this job, from what each has worked out of its own step. The same on every rank. Collective.
[[nodiscard]] PeakMemory peak_memory(comm::Communicator& world, const RunPlan& plan);
/// States limit and peak in the plan. Throws kInvalidArgument, with both figures and the rank, for a peak above
/// schedule.memory_limit_mib.
void require_memory(const RunConfig& config, const PeakMemory& peak, scheduler::Plan& plan);

/// Told what happens, on every rank; what is shown is the observer's business. All calls come from the training thread.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void on_start(const RunPlan& /*plan*/, std::int64_t /*first_step*/) {}
  virtual void on_step(const StepReport& /*report*/, const scheduler::Graph& /*graph*/,
                       const scheduler::Timeline& /*measured*/) {}
  /// A look for a faster plan is done; from the next step on its costs and its plan hold (schedule.replan).
  virtual void on_replan(const Replan& /*replan*/) {}
  virtual void on_validation(std::int64_t /*step*/, double /*loss*/) {}
  /// Something worth a line: resumed from where, a checkpoint saved or refused, a buffer that grew.
  virtual void on_note(const std::string& /*text*/) {}
  virtual void on_warning(const std::string& /*text*/) {}
};

enum class Resume { kNone, kAuto, kFrom };

struct TrainOptions {
  std::filesystem::path run_dir;
  Resume resume = Resume::kAuto;
  std::filesystem::path resume_from;  ///< kFrom: a checkpoint folder, or a run folder (its newest valid checkpoint).
  std::filesystem::path init_from;    ///< Weights of this checkpoint, fresh optimizer and schedule; empty: none.
  std::string config_text;            ///< Stored with the run's checkpoints.
  /// How plans are stored with checkpoints, and read back: a run that resumes in the same layout keeps its plan. May be
  /// null.
  std::function<std::string(const scheduler::Plan&)> plan_to_text;
  std::function<scheduler::Plan(const std::string&)> plan_from_text;
  std::optional<scheduler::Plan> plan;  ///< To run instead of planning (schedule.plan).
  scheduler::CostModel cost;
  int ranks_per_node = 1;
  Device device;  ///< Of this rank (run_device); the same kind on all.
  /// Polled before every step on every rank; true anywhere: save and stop. May be null.
  std::function<bool()> stop_requested;
};

enum class TrainOutcome { kFinished, kStopped };  ///< kStopped: saved and stopped on request or at the time limit.

/// A run, step by step: for several side by side in one process.
class TrainingRun {
 public:
  virtual ~TrainingRun() = default;
  /// Collective. The next step, with the validation and the checkpoint that are due after it. How the run ended once it
  /// has; nothing before. The first call tells the observer that the run starts.
  virtual std::optional<TrainOutcome> step() = 0;
  [[nodiscard]] virtual const RunPlan& plan() const = 0;
};

/// Collective. Everything up to the first step. `world`, `options` and `observer` outlive the run. An empty
/// options.run_dir: no file is written, and nothing is resumed (checkpoint.every must be 0). Errors as train().
[[nodiscard]] std::unique_ptr<TrainingRun> start_training(const RunConfig& config, comm::Communicator& world,
                                                          const TrainOptions& options, TrainObserver& observer);

/// Trains to the end. Collective over `world`, which holds every rank of the job. Writes run_dir/metrics.jsonl and
/// run_dir/checkpoints (rank 0 makes the folder). validate(config, world.size()) must be empty. Throws kInvalidArgument
/// (data, checkpoint of another model) before any large memory is taken; kNonFinite when loss or gradient norm are not
/// finite: the update is not applied and the last checkpoint stands.
TrainOutcome train(const RunConfig& config, comm::Communicator& world, const TrainOptions& options,
                   TrainObserver& observer);

}  // namespace weft::parallel
