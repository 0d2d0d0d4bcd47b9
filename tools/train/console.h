// tools/train/console.h - what a person sees of a run: a line per step, a summary before and after.
#pragma once

#include <array>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "parallel/train/trainer.h"

namespace weft::tools {

enum class Progress { kAuto, kAlways, kNever };

/// Rank 0 prints to standard output and to run_dir/log.txt; other ranks are silent but for warnings on standard error.
/// On a terminal the step line is rewritten in place between printed steps; elsewhere every `every`-th step is a line.
class Console final : public parallel::TrainObserver {
 public:
  Console(const parallel::RunConfig& config, int rank, Progress progress, int log_every);
  /// Rank 0: log.txt and plan.textproto go into `run_dir`, which exists. Throws Error{kIo}.
  void use_run_folder(const std::filesystem::path& run_dir);

  void on_start(const parallel::RunPlan& plan, std::int64_t first_step) override;
  void on_step(const parallel::StepReport& report, const scheduler::Graph& graph,
               const scheduler::Timeline& timeline) override;
  void on_validation(std::int64_t step, double loss) override;
  void on_note(const std::string& text) override;
  void on_warning(const std::string& text) override;
  /// Losses, time per step, time by stage, peak memory: measured next to predicted.
  void summary() const;

 private:
  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  void print(const std::string& line) const;
  [[nodiscard]] std::string step_line(const parallel::StepReport& report) const;

  parallel::RunConfig config_;
  int rank_;
  bool live_;
  int log_every_;
  std::filesystem::path run_dir_;  // empty: nothing is written
  std::unique_ptr<std::FILE, Close> log_;
  parallel::RunPlan plan_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::int64_t first_step_ = 1, num_steps_ = 0;
  double first_loss_ = 0.0, last_loss_ = 0.0, validation_loss_ = -1.0, last_validation_ = -1.0;
  double loss_mean_ = 0.0, loss_square_ = 0.0;  // running, for the deviation in the step line
  double total_ms_ = 0.0;
  std::array<double, scheduler::kNumStages> stage_ms_{};
};

}  // namespace weft::tools
