#include "tests/support/training.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "core/error.h"
#include "core/rng.h"
#include "core/token_shard.h"
#include "tools/config/schedule_files.h"

namespace weft::test {
namespace {

namespace fs = std::filesystem;
using namespace weft::parallel;

class Recorder final : public TrainObserver {
 public:
  std::vector<std::string> notes, warnings;
  std::int64_t last_step = 0;
  void on_start(const RunPlan&, std::int64_t first_step) override { last_step = first_step - 1; }
  void on_step(const StepReport& report, const scheduler::Graph&, const scheduler::Timeline&) override {
    last_step = report.step;
  }
  void on_note(const std::string& text) override { notes.push_back(text); }
  void on_warning(const std::string& text) override { warnings.push_back(text); }
};

std::string write_tokens(const fs::path& path, std::uint64_t seed) {
  const Rng rng(seed, RngPurpose::kTest);
  std::vector<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < 400; ++i) tokens.push_back(static_cast<std::int32_t>(rng.below(31, i)));
  TokenShardWriter writer(path);
  writer.append(tokens);
  writer.finish();
  return path.string();
}

}  // namespace

std::vector<nlohmann::ordered_json> metric_lines(const fs::path& run_dir) {
  std::vector<nlohmann::ordered_json> out;
  std::ifstream in(run_dir / "metrics.jsonl");
  std::string line;
  std::getline(in, line);  // the schema
  while (std::getline(in, line)) out.push_back(nlohmann::ordered_json::parse(line));
  return out;
}

RunConfig tiny_run(const fs::path& folder) {
  RunConfig c;
  c.model.layers = 2;
  c.model.model_dim = 16;
  c.model.expert_hidden_dim = 12;
  c.model.vocab_size = 31;
  c.model.init_std = 0.2;
  c.model.moe.experts = 8;
  c.model.moe.z_loss_coef = 1e-3;
  c.train.steps = 6;
  c.train.global_batch = 8;
  c.train.micro_batch = 1;
  c.train.sequence_length = 8;
  c.train.dtype = DType::kF64;
  c.train.optimizer.eps = 1e-6;
  c.train.optimizer.warmup_steps = 2;
  c.train.validate_every = 3;
  c.train.validate_sequences = 5;
  c.parallel.expert = 1;
  c.data.train.push_back(write_tokens(folder / "train.bin", 1));
  c.data.val.push_back(write_tokens(folder / "val.bin", 2));
  return c;
}

TrainRun train_here(const RunConfig& config, comm::Communicator& world, const TrainCall& call) {
  Recorder recorder;
  TrainOptions options;
  options.run_dir = call.run_dir;
  options.resume = call.resume;
  options.init_from = call.init_from;
  options.plan = call.plan;
  options.cost = call.cost;
  options.device = call.device;
  options.config_text = "a test";
  options.ranks_per_node = call.ranks_per_node > 0 ? call.ranks_per_node : world.size();
  if (config.schedule.replan > 0) {
    options.cost = tools::nominal_costs();
    options.plan_to_text = tools::plan_to_text;
    options.plan_from_text = [](const std::string& text) { return tools::plan_from_text(text, "a test"); };
  }
  const bool asks = world.rank() == world.size() - 1;
  options.stop_requested = [&] {
    return asks && call.stop_before_step > 0 && recorder.last_step + 1 >= call.stop_before_step;
  };
  if (world.rank() == 0) fs::create_directories(call.run_dir);
  const TrainOutcome outcome = train(config, world, options, recorder);
  return {outcome, recorder.notes, recorder.warnings};
}

TrainRun run_training(const RunConfig& config, const TrainCall& call) {
  TrainRun out;
  comm::run_local_ranks(call.world_size, [&](comm::Communicator& world) {
    TrainRun mine = train_here(config, world, call);
    if (world.rank() == 0) out = std::move(mine);
  });
  return out;
}

std::vector<std::string> timeless_metrics(const fs::path& run_dir) {
  std::vector<std::string> out;
  for (nlohmann::ordered_json line : metric_lines(run_dir)) {
    for (const char* key : {"step_ms", "tokens_per_second", "model_tflops", "exposed_comm_frac"}) line.erase(key);
    out.push_back(line.dump());
  }
  return out;
}

std::vector<double> metric(const fs::path& run_dir, const std::string& key) {
  std::vector<double> out;
  for (const auto& line : metric_lines(run_dir))
    if (line.contains(key)) out.push_back(line[key].get<double>());
  return out;
}

}  // namespace weft::test
