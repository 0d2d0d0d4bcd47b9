#include "parallel/step/recorded_step.h"

#include <utility>

#include "core/error.h"
#include "core/log.h"

namespace weft::parallel {

scheduler::Timeline RecordedStep::run(const std::vector<scheduler::TaskBody>& bodies, scheduler::Arena& arena) {
  if (gave_up_) return executor_.run(bodies, arena);
  Arguments now{state_.num_tokens, state_.num_groups, state_.clip_norm, state_.gate_noise, state_.seed, state_.inputs};
  if (now != arguments_) {
    recording_.reset();
    arguments_.reset();  // a run that fails half way is no first one
    scheduler::Timeline timeline = executor_.run(bodies, arena);
    arguments_ = std::move(now);
    return timeline;
  }
  if (recording_) {
    world_.count_again(sent_);
  } else if (!record(bodies, arena)) {
    return executor_.run(bodies, arena);
  }
  try {
    return executor_.run_recorded(*recording_);
  } catch (...) {
    recording_.reset();  // what reported the error would report it again
    throw;
  }
}

/// False when it cannot be done.
bool RecordedStep::record(const std::vector<scheduler::TaskBody>& bodies, scheduler::Arena& arena) {
  const comm::Traffic::Snapshot before = world_.traffic().snapshot();
  try {
    recording_ = executor_.record(bodies, arena);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kComm || error.code() == ErrorCode::kTimeout) throw;  // its group is lost
    gave_up_ = true;
    state_.statistics.forget_received_rows();                  // they are counted again
    world_.count_again(before - world_.traffic().snapshot());  // it has not been sent
    log()->warn("steps are launched task by task: CUDA did not record one: {}", error.message());
    return false;
  }
  sent_ = world_.traffic().snapshot() - before;
  ++num_recordings_;
  return true;
}

}  // namespace weft::parallel
