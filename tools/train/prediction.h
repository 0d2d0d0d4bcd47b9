// tools/train/prediction.h - what the plan said a step would take, next to what steps took.
#pragma once

#include <array>
#include <deque>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "parallel/train/trainer.h"

namespace weft::tools {

/// Median times of the last 512 steps of this rank, the first step of the run (which touches all memory for the first
/// time) left out where there are others. A stage's time is the sum over its tasks, so that stages that overlap add up
/// to more than the step; communication includes waiting for other ranks.
class Prediction {
 public:
  /// A plan comes into force: its steps are compared from here on.
  void start(const parallel::RunPlan& plan);
  void add(const parallel::StepReport& report, const scheduler::Graph& graph, const scheduler::Timeline& timeline);
  /// {"cost_source", "policy", "steps", "step": {"predicted_ms", "measured_ms", "error"}, "stages": [{"stage", ...}]};
  /// error: predicted over measured, minus 1; null without a measured time.
  [[nodiscard]] nlohmann::ordered_json to_json() const;
  /// The same as lines of a table.
  [[nodiscard]] std::vector<std::string> table() const;

 private:
  struct Step {
    double total_ms = 0.0;
    std::array<double, scheduler::kNumStages> stage_ms{};
  };
  parallel::RunPlan plan_;
  std::deque<Step> steps_;
  std::int64_t num_steps_ = 0;
};

/// A step that ran; both outlive this struct.
struct MeasuredStep {
  const scheduler::Graph* graph = nullptr;
  const scheduler::Timeline* timeline = nullptr;
  std::int64_t step = 0;
};
/// run_dir/trace.json: the measured step above the simulated one (scheduler/trace.h). Throws Error{kIo}.
void write_trace(const std::string& path, const parallel::RunPlan& plan, const MeasuredStep& measured);

}  // namespace weft::tools
