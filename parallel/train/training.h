// parallel/train/training.h - a run of trainer.h: what it holds from its start (training_start.cpp) through its steps
// (trainer.cpp).
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "core/error.h"
#include "parallel/data/shard.h"
#include "parallel/train/checkpoint.h"
#include "parallel/train/device_memory.h"
#include "parallel/train/metrics.h"
#include "parallel/train/replanner.h"
#include "parallel/train/trainer.h"
#include "parallel/train/validator.h"

namespace weft::parallel {

/// T: float, double or BF16, of rows and weights (train.dtype).
template <class T>
class Training final : public TrainingRun {
 public:
  Training(const RunConfig& config, comm::Communicator& world, const TrainOptions& options, TrainObserver& observer);
  std::optional<TrainOutcome> step() override;
  [[nodiscard]] const RunPlan& plan() const override { return plan_; }

 private:
  /// What `work` returns; its kOutOfMemory with what the plan needs, and with one that needs less.
  template <class Work>
  auto explaining_memory(const Work& work) {
    try {
      return work();
    } catch (const Error& e) {
      if (e.code() != ErrorCode::kOutOfMemory) throw;
      throw explain_out_of_memory(config_, plan_, cost_, e);
    }
  }
  // training_start.cpp
  void start_from_checkpoint();
  void make_plan();
  void require_same_plan();
  void bind();
  void bind_step();
  // trainer.cpp
  [[nodiscard]] std::optional<TrainOutcome> next_step();
  [[nodiscard]] bool should_stop(std::int64_t valid_here, std::int64_t& valid_all);
  StepReport one_step(std::int64_t step, const std::vector<LocalBatch>& batches, std::int64_t valid);
  [[nodiscard]] std::vector<LocalBatch> load_batches() const;
  void save(std::int64_t step);
  void replan(std::int64_t step);
  void write_metrics(const StepReport& report, std::optional<double> validation_loss);

  RunConfig config_;
  comm::Communicator& world_;
  const TrainOptions& options_;
  TrainObserver& observer_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  TokenDataset data_;
  scheduler::CostModel cost_;
  SampleOrder order_;
  Mesh mesh_;
  RunPlan plan_;
  MeshComms comms_;
  ParameterTable table_;
  std::unique_ptr<Stream> stream_ = make_inline_stream();
  std::unique_ptr<Checkpoint> resume_;
  std::int64_t first_step_ = 1, next_step_ = 1, samples_ = 0, tokens_ = 0, last_saved_ = 0;
  std::int64_t noted_bytes_ = 0;  // size of the arena when its growth was last reported
  std::unique_ptr<ParameterStore<T>> store_;
  StepState state_;
  std::unique_ptr<BoundStep<T>> step_;
  std::unique_ptr<Replanner> replanner_;  // null: schedule.replan is 0
  std::unique_ptr<Validator<T>> validator_;
  std::unique_ptr<MetricsFiles> metrics_;  // rank 0
};

}  // namespace weft::parallel
