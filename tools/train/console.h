// tools/train/console.h - what a person sees of a run: a line per step, a summary before and after.
#pragma once

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "parallel/train/trainer.h"
#include "tools/train/prediction.h"

namespace weft::tools {

enum class Progress { kAuto, kAlways, kNever, kSilent };  ///< kSilent: the log file alone.

/// Rank 0 prints to standard output and to run_dir/log.txt; other ranks are silent but for warnings on standard error.
/// On a terminal the step line is rewritten in place between printed steps; elsewhere every `every`-th step is a line.
class Console final : public parallel::TrainObserver {
 public:
  Console(const parallel::RunConfig& config, int rank, Progress progress, int log_every);
  /// The tasks of step `step` go to run_dir/trace.json, next to the simulated ones.
  void trace_step(std::int64_t step) { trace_step_ = step; }
  /// What a run folder keeps of where the run came from, as text.
  struct Origin {
    std::string config, environment;
    std::string profile;  ///< Empty: none was used.
    DeviceKind device = DeviceKind::kCpu;
  };
  /// Rank 0: log.txt goes into `run_dir`, which exists; the run's origin and plan too, once the run is accepted
  /// (on_start). Throws Error{kIo}.
  void use_run_folder(const std::filesystem::path& run_dir, Origin origin);

  [[nodiscard]] std::int64_t num_steps() const noexcept { return num_steps_; }  ///< Done since this start.

  void on_start(const parallel::RunPlan& plan, std::int64_t first_step) override;
  void on_step(const parallel::StepReport& report, const scheduler::Graph& graph,
               const scheduler::Timeline& timeline) override;
  void on_replan(const parallel::Replan& replan) override;
  void on_validation(std::int64_t step, double loss) override;
  void on_note(const std::string& text) override;
  void on_warning(const std::string& text) override;
  /// Losses, predicted next to measured times by stage (also run_dir/prediction.json), peak memory.
  void summary(parallel::TrainOutcome outcome) const;

 private:
  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  void print(const std::string& line) const;
  [[nodiscard]] std::string schedule_line() const;
  [[nodiscard]] std::string step_line(const parallel::StepReport& report) const;

  parallel::RunConfig config_;
  int rank_;
  bool silent_, live_;
  int log_every_;
  std::filesystem::path run_dir_;  // empty: nothing is written
  Origin origin_;
  std::unique_ptr<std::FILE, Close> log_;
  parallel::RunPlan plan_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::int64_t first_step_ = 1, num_steps_ = 0;
  double first_loss_ = 0.0, last_loss_ = 0.0, validation_loss_ = -1.0, last_validation_ = -1.0;
  double loss_mean_ = 0.0, loss_square_ = 0.0;  // running, for the deviation in the step line
  double total_ms_ = 0.0;
  std::int64_t trace_step_ = 0;  // 0: none
  Prediction prediction_;
};

}  // namespace weft::tools
