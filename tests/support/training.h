// tests/support/training.h - whole training runs in a folder of their own.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "parallel/train/trainer.h"
#include "tests/support/temp_folder.h"

namespace weft::test {

/// A tiny run in f64 on made-up tokens, which it writes into `folder`.
[[nodiscard]] parallel::RunConfig tiny_run(const std::filesystem::path& folder);

struct TrainCall {
  int world_size = 1;  ///< Of run_training().
  std::filesystem::path run_dir = {};
  parallel::Resume resume = parallel::Resume::kAuto;
  std::filesystem::path init_from = {};
  int stop_before_step = 0;  ///< A rank other than 0 (if there is one) asks to stop before this step; 0: never.
  Device device = {};
  int ranks_per_node = 0;                    ///< 0: all on one.
  std::optional<scheduler::Plan> plan = {};  ///< To run instead of the config's policy.
  scheduler::CostModel cost = {};            ///< To plan with; schedule.replan takes nominal costs.
};
struct TrainRun {
  parallel::TrainOutcome outcome = parallel::TrainOutcome::kFinished;
  std::vector<std::string> notes, warnings;
};
/// Collective over `world`.
TrainRun train_here(const parallel::RunConfig& config, comm::Communicator& world, const TrainCall& call);
/// On ranks that are threads; what rank 0 has to tell.
TrainRun run_training(const parallel::RunConfig& config, const TrainCall& call);

/// metrics.jsonl without what the clock says (step_ms, tokens_per_second, model_tflops, exposed_comm_frac): a line a
/// step.
[[nodiscard]] std::vector<std::string> timeless_metrics(const std::filesystem::path& run_dir);
/// Column `key` of metrics.jsonl.
[[nodiscard]] std::vector<double> metric(const std::filesystem::path& run_dir, const std::string& key);

/// The lines of metrics.jsonl behind the schema.
[[nodiscard]] std::vector<nlohmann::ordered_json> metric_lines(const std::filesystem::path& run_dir);

}  // namespace weft::test
