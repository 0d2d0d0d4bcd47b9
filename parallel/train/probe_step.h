// parallel/train/probe_step.h - times the tasks of real steps: the modules that run, at several sizes, all ranks
// active.
#pragma once

#include <memory>
#include <vector>

#include "parallel/data/shard.h"
#include "parallel/step/step_builder.h"
#include "parallel/train/probe_clock.h"
#include "parallel/train/run_config.h"
#include "scheduler/cost_model.h"

namespace weft::parallel {

/// How one probed step is cut.
struct StepVariant {
  int forward_chunks = 1, backward_chunks = 1;
  int weight_grad_pieces = 0;
  int gradient_slices = 1;
  int groups = 1;  ///< Routing groups of the micro-batch.
  bool padded = false;
};

/// What the tasks of one run took.
///   Communication, agreed over the ranks: from when the last rank had entered until the last rank was done, by the
///   wall clock. A barrier stands before it, so that nobody's lateness counts as wire time, and one after it, so that
///   no rank that is done takes a core for its next task from one that is not. Computation: this rank's CPU time. Where
///   ranks share cores, the operating system runs some now and others later, so one rank's wall clock shows either
///   nothing or a whole time slice of waiting; CPU time is free of both, and TaskTimes says what the
///   sharing costs.
/// On a GPU all are the GPU's times of one step, launched without barriers; communication, of the rank that came last,
/// which waited for nobody.
struct StepTimes {
  std::vector<double> task_us;  ///< [tasks]
  double step_us = 0.0;         ///< Time of a step as training runs it inline, without barriers.
  double rank_load = 1.0;       ///< Rows received by the busiest rank over the mean.
};

/// Where a probe's tokens are from: the first sequences of the training data, so that routing and documents are as
/// uneven as training will find them; or made-up ones where there is no data.
struct ProbeTokens {
  const TokenDataset* data = nullptr;  ///< Null: made up.
  AttendAcrossDocuments attend = AttendAcrossDocuments::kNo;
};

/// One step of a model, bound to memory, with a learning rate of zero.
template <class T>
class StepProbe {
 public:
  /// Collective. `comms` and `store`, of `device`, outlive this object; spec.geometry is set from `variant`.
  StepProbe(StepSpec spec, const StepVariant& variant, scheduler::Recompute recompute, const MeshComms& comms,
            ParameterStore<T>& store, const ProbeTokens& tokens, Device device = {});
  /// Collective: one run.
  [[nodiscard]] StepTimes run(const ProbeClock& clock);
  [[nodiscard]] const scheduler::Graph& graph() const { return step_->graph(); }

 private:
  void take_tokens(const ProbeTokens& tokens);
  [[nodiscard]] StepTimes run_on_cpu(const ProbeClock& clock);
  [[nodiscard]] StepTimes run_on_gpu();

  StepSpec spec_;
  Device device_;
  const MeshComms& comms_;
  StepState state_;
  LocalBatch batch_;
  std::unique_ptr<BoundStep<T>> step_;
};

/// Collects the times of probed steps and condenses them: one sample per family and size.
class TaskTimes {
 public:
  /// Of steps on `device`.
  explicit TaskTimes(Device device = {}) : device_(device) {}
  /// Collective. Registers a step; returns its number for add(). Sizes are rank 0's: others' differ by uneven shares.
  int add_step(const scheduler::Graph& graph, comm::Communicator& world);
  void add(int step, const StepTimes& times);
  /// Collective, once, at the end. Each sample: the mean of the middle 80 % of the times of all tasks of its family and
  /// size in all runs, then the maximum over ranks. In this order, so that the maximum is over ranks, not over what the
  /// machine did for others meanwhile. Compute is multiplied by the stretch. `ranks_per_core`: as in
  /// scheduler::Machine.
  [[nodiscard]] std::vector<scheduler::TaskSample> samples(comm::Communicator& world, double ranks_per_core = 1.0);
  /// Known after samples(): wall time over CPU time of computation, beyond what sharing a core explains, and what a
  /// communication task takes beyond its time between barriers because ranks come to it one after the other, asleep or
  /// without a core. Fitted to whole steps: step = stretch * sharing * CPU time + wait * communication tasks + their
  /// times, sharing = 1 + (ranks per core - 1) u^2,
  /// u: the share of the step in which a rank computes
  /// (scheduler/simulator.h). On a GPU 1 and 0: its times are those of a task alone.
  [[nodiscard]] double stretch() const { return stretch_; }
  [[nodiscard]] double wait_us() const { return wait_us_; }

 private:
  struct Entry {
    scheduler::FamilyKey key;
    double operations, amount;
    bool comm;
    std::vector<double> times_us;
  };
  struct Run {
    int step;
    double step_us;
  };
  void fit_steps(const std::vector<double>& entry_us, double ranks_per_core);

  Device device_;
  std::vector<Entry> entries_;
  std::vector<std::vector<int>> entry_of_task_;  // [steps][tasks]; -1: free of cost
  std::vector<Run> runs_;
  double stretch_ = 1.0, wait_us_ = 0.0;
};

/// True for tasks that wait for other ranks.
[[nodiscard]] bool waits_for_peers(const scheduler::Task& task);

}  // namespace weft::parallel
