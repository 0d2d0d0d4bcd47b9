// parallel/step/recorded_step.h - a step on a GPU as one launch: recorded once, where its shapes do not change.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "comm/communicator.h"
#include "core/recording.h"
#include "parallel/step/step_state.h"
#include "scheduler/stream_executor.h"

namespace weft::parallel {

/// A first run goes over streams, task by task: libraries make there what they keep, and groups their links. A second
/// with equal arguments of its launches is recorded, and launched; so are later ones, until an argument changes. Then
/// it is a first run again: what changes from step to step is never recorded, which takes longer than running it.
class RecordedStep {
 public:
  /// All of them outlive this object. world: the group that the step's others are split from.
  RecordedStep(scheduler::StreamExecutor& executor, StepState& state, comm::Communicator& world)
      : executor_(executor), state_(state), world_(world) {}

  /// As StreamExecutor::run. What CUDA cannot record is logged once, and runs over streams from then on;
  /// what NCCL cannot is an error of its group.
  scheduler::Timeline run(const std::vector<scheduler::TaskBody>& bodies, scheduler::Arena& arena);
  [[nodiscard]] int num_recordings() const noexcept { return num_recordings_; }  ///< So far.

 private:
  /// What tasks read on the host and put into launches, and what may differ between two steps.
  struct Arguments {
    double num_tokens = 0.0, num_groups = 0.0, clip_norm = 0.0;
    bool gate_noise = false;
    std::uint64_t seed = 0;
    std::vector<MicroBatch> inputs = {};
    friend bool operator==(const Arguments&, const Arguments&) = default;
  };
  [[nodiscard]] bool record(const std::vector<scheduler::TaskBody>& bodies, scheduler::Arena& arena);

  scheduler::StreamExecutor& executor_;
  StepState& state_;
  comm::Communicator& world_;
  std::unique_ptr<Recording> recording_;
  std::optional<Arguments> arguments_;  ///< Of the last run, and of the recording.
  comm::Traffic::Snapshot sent_;        ///< By a launch of the recording.
  bool gave_up_ = false;
  int num_recordings_ = 0;
};

}  // namespace weft::parallel
