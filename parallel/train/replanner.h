// parallel/train/replanner.h - looks, while a run goes on, whether another plan would be faster by what was measured.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "parallel/train/trainer.h"

namespace weft::parallel {

/// Every schedule.replan steps of one plan: refits the cost model to the measured tasks, plans with the config's policy
/// on it, and tries the new plan when it is predicted to be faster by more than kHysteresis and saves more time over
/// the rest of the run than planning and binding take. A trial of as many steps decides by the clock: a plan that is
/// not measured to be faster is given up for the one before, and never tried again in this run. Rank 0 decides for all.
class Replanner {
 public:
  static constexpr double kHysteresis = 0.03;  ///< Predicted gain under which nothing happens.
  static constexpr double kTrialGain = 0.01;   ///< Measured gain under which a trial has failed.

  /// `log`: of the checkpoint that the run goes on from. `config` and `world` outlive this object.
  Replanner(const RunConfig& config, comm::Communicator& world, const scheduler::CostModel& cost,
            std::vector<std::string> log);
  /// After each step of the plan in force, on every rank.
  void observe(const scheduler::Graph& graph, const scheduler::Timeline& timeline, double step_ms);
  /// Collective, between steps. Nothing when no look is due. `current`: what observe() saw, priced with the costs in
  /// force, which are those of the last look, at first the constructor's.
  [[nodiscard]] std::optional<Replan> consider(std::int64_t step, const RunPlan& current);
  /// One JSON object per look: {"step", "action": "keep", "try", "accept" or "give_up", "reason", "measured_ms",
  /// "predicted_ms": {"before", "after"}, ...}; predicted on the costs refitted by this look, of the plan before and of
  /// the one it was held against ("keep", "try") or that the run goes on with ("accept", "give_up").
  [[nodiscard]] const std::vector<std::string>& log() const noexcept { return log_; }

 private:
  struct Decision {
    std::optional<scheduler::Plan> plan;  ///< Nothing: go on as before.
    std::string entry;                    ///< For the log.
  };
  [[nodiscard]] std::vector<double> agreed_task_us() const;
  [[nodiscard]] double agreed_step_ms() const;
  [[nodiscard]] Decision decide(std::int64_t step, const RunPlan& current, double measured_ms) const;
  [[nodiscard]] Decision look(std::int64_t step, const RunPlan& current, double measured_ms) const;
  [[nodiscard]] Decision judge_trial(std::int64_t step, const RunPlan& current, double measured_ms) const;
  void change_plan(const scheduler::Plan& plan, Replan& out);
  [[nodiscard]] std::string shared(const std::string& text) const;

  const RunConfig& config_;
  comm::Communicator& world_;
  scheduler::CostModel cost_;
  std::string first_source_;  // of the costs that the run started with
  std::vector<std::string> log_;
  const scheduler::Graph* graph_ = nullptr;
  std::vector<std::vector<double>> task_us_;  // [steps][tasks] of the plan in force
  std::vector<double> step_ms_;
  int skipped_ = 0;                           // steps left out after a change: they touch new memory
  std::optional<scheduler::Plan> incumbent_;  // during a trial: the plan before
  double incumbent_ms_ = 0.0;
  std::vector<std::uint64_t> given_up_;  // digests
};

}  // namespace weft::parallel
