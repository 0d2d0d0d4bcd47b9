// Whole runs: the same bits twice, through a stop and a resume, in the same layout; the same figures in any other.
#include "parallel/train/trainer.h"

#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "parallel/step/step_emitter.h"
#include "parallel/train/checkpoint.h"
#include "parallel/train/run_setup.h"
#include "scheduler/order.h"
#include "tests/support/catch.h"
#include "tests/support/training.h"

using namespace weft;
using namespace weft::parallel;
namespace fs = std::filesystem;
using test::run_training;
using test::timeless_metrics;

namespace {

void check_close(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  REQUIRE(!a.empty());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(std::abs(a[i] - b[i]) <= 1e-10 * std::abs(a[i]));
}

void check_same_training(const fs::path& a, const fs::path& b) {
  for (const char* key : {"loss", "grad_norm", "aux_loss", "z_loss", "val_loss", "tokens"}) {
    INFO(key);
    check_close(test::metric(a, key), test::metric(b, key));
  }
}

void flip_byte(const fs::path& file, std::streamoff from_end) {
  std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
  f.seekg(-from_end, std::ios::end);
  const char c = static_cast<char>(f.get() ^ 0x40);
  f.seekp(-from_end, std::ios::end);
  f.put(c);
}

std::string error_of_training(const RunConfig& config, const test::TrainCall& call, ErrorCode& code) {
  try {
    run_training(config, call);
  } catch (const Error& e) {
    code = e.code();
    return e.message() + " | " + e.hint();
  }
  return "";
}

}  // namespace

TEST_CASE("The same layout twice writes the same metrics, times aside", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.train.dtype = GENERATE(DType::kF32, DType::kF64);
  config.parallel.expert = 2;
  run_training(config, {4, folder.path() / "a"});
  run_training(config, {4, folder.path() / "b"});
  CHECK(timeless_metrics(folder.path() / "a").size() == 6);
  CHECK(timeless_metrics(folder.path() / "a") == timeless_metrics(folder.path() / "b"));
}

TEST_CASE("Validation counts every sub-batch of a plan", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.train.micro_batch = 2;
  run_training(config, {.run_dir = folder.path() / "whole"});
  const StepSpec spec = training_spec(config, make_mesh(1, 0, mesh_options(config, 1)), {});
  scheduler::Shape shape = training_shape(config);
  shape.sub_batches = {2};
  scheduler::Plan plan = scheduler::sequential_plan(emit_step(spec, shape, config.train.dtype), shape);
  plan.made_for = describe(spec, config.train.dtype);
  run_training(config, {.run_dir = folder.path() / "cut", .plan = plan});
  check_same_training(folder.path() / "whole", folder.path() / "cut");
}

TEST_CASE("Every so many steps metrics.jsonl has what each expert took in", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.model.layers = 3;
  config.model.layer_pattern = "MDM";
  config.model.moe.capacity_factor = GENERATE(0.0, 1.0);
  config.metrics.router_every = 2;
  config.parallel.expert = 2;
  run_training(config, {4, folder.path() / "four"});
  config.parallel.expert = 1;
  run_training(config, {1, folder.path() / "one"});
  const auto lines = test::metric_lines(folder.path() / "four"), one = test::metric_lines(folder.path() / "one");
  REQUIRE(lines.size() == 6);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    REQUIRE(lines[i].contains("expert_tokens") == (i % 2 == 1));
    if (i % 2 == 0) continue;
    const auto layers = lines[i]["expert_tokens"].get<std::vector<std::vector<std::int64_t>>>();
    CHECK(lines[i]["expert_tokens"] == one[i]["expert_tokens"]);
    REQUIRE(layers.size() == 2);  // the MoE layers
    std::int64_t taken = 0;
    for (const auto& layer : layers) {
      REQUIRE(layer.size() == 8);
      taken = std::accumulate(layer.begin(), layer.end(), taken);
    }
    const double choices = 2.0 * 8 * 8 * 2, dropped = lines[i]["drop_frac"].get<double>();  // layers * batch * S * K
    CHECK(double(taken) == Approx(choices * (1.0 - dropped)).epsilon(1e-12));
    CHECK((dropped > 0.0) == (config.model.moe.capacity_factor > 0.0));
  }
}

TEST_CASE("Stopped and resumed, a run ends with the bits of an unbroken one", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.parallel.expert = 2;
  config.parallel.zero = GENERATE(true, false);
  config.model.moe.balance_scope = BalanceScope::kGlobalPrevious;  // carries state from step to step
  run_training(config, {4, folder.path() / "whole"});
  const auto stopped = run_training(config, {4, folder.path() / "broken", Resume::kAuto, {}, 4});
  CHECK(stopped.outcome == TrainOutcome::kStopped);
  CHECK(timeless_metrics(folder.path() / "broken").size() == 3);
  CHECK(list_checkpoints(folder.path() / "broken/checkpoints").size() == 1);

  SECTION("in the same layout: bitwise") {
    const auto resumed = run_training(config, {4, folder.path() / "broken"});
    CHECK(resumed.outcome == TrainOutcome::kFinished);
    REQUIRE(!resumed.notes.empty());
    CHECK(resumed.notes.front().find("resumed from") != std::string::npos);
    CHECK(timeless_metrics(folder.path() / "whole") == timeless_metrics(folder.path() / "broken"));
  }
  SECTION("in another layout: equal to rounding") {
    config.parallel.expert = GENERATE(1, 8);
    config.parallel.zero = !config.parallel.zero;
    run_training(config, {config.parallel.expert, folder.path() / "broken"});
    check_same_training(folder.path() / "whole", folder.path() / "broken");
  }
}

TEST_CASE("Checkpoints of cut experts are read by any layout", "[trainer][esp]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.model.family = GENERATE(ModelFamily::kMixtral, ModelFamily::kGpt2Moe);
  config.parallel.expert = 2;
  config.parallel.expert_shard = 2;
  run_training(config, {4, folder.path() / "whole"});
  run_training(config, {4, folder.path() / "broken", Resume::kAuto, {}, 4});
  struct Ranks {
    int expert, shard, world;
    bool zero;
  };
  const auto layout = GENERATE(Ranks{2, 2, 8, true}, Ranks{1, 1, 1, false}, Ranks{1, 4, 4, true}, Ranks{8, 1, 8, true});
  config.parallel.expert = layout.expert;
  config.parallel.expert_shard = layout.shard;
  config.parallel.zero = layout.zero;
  const auto resumed = run_training(config, {layout.world, folder.path() / "broken"});
  REQUIRE(!resumed.notes.empty());
  CHECK(resumed.notes.front().find("resumed from") != std::string::npos);
  check_same_training(folder.path() / "whole", folder.path() / "broken");
}

TEST_CASE("1 to 8 ranks with every EP, ZeRO on and off: one run of 20 steps", "[trainer][layout]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.train.steps = 20;
  run_training(config, {1, folder.path() / "one"});
  int runs = 0;
  for (const int world : {2, 4, 8})
    for (int ep = 1; ep <= world; ep *= 2) {
      config.parallel.expert = ep;
      config.parallel.zero = ep % 4 != 2;
      config.train.micro_batch = world < 8 ? 2 : 1;
      config.schedule.forward_chunks = config.schedule.backward_chunks = ep == 2 ? 3 : 1;
      config.train.recompute = ep == 4 ? Recompute::kFull : Recompute::kNone;
      const fs::path run = folder.path() / std::to_string(runs++);
      run_training(config, {world, run});
      INFO("world " << world << ", EP " << ep);
      check_same_training(folder.path() / "one", run);
    }
}

TEST_CASE("A damaged newest checkpoint is passed over, and said so", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.checkpoint.every = 2;
  config.checkpoint.keep = 3;
  run_training(config, {2, folder.path() / "whole"});
  config.train.steps = 4;
  run_training(config, {2, folder.path() / "run"});
  config.train.steps = 6;
  const auto all = list_checkpoints(folder.path() / "run/checkpoints");
  REQUIRE(all.size() == 2);
  SECTION("a flipped bit in the data") { flip_byte(all[0] / "rank-00001.safetensors", 100); }
  SECTION("a truncated file") { fs::resize_file(all[0] / "rank-00000.safetensors", 1000); }
  SECTION("no manifest") { fs::remove(all[0] / "manifest.json"); }
  SECTION("a broken manifest") { fs::resize_file(all[0] / "manifest.json", 200); }
  SECTION("a flipped bit in the manifest") { flip_byte(all[0] / "manifest.json", GENERATE(40, 300, 2000)); }
  SECTION("a missing file") { fs::remove(all[0] / "rank-00001.safetensors"); }
  const auto resumed = run_training(config, {2, folder.path() / "run"});
  REQUIRE(resumed.warnings.size() == 2);
  CHECK(resumed.warnings[0].find("step-00000004") != std::string::npos);
  CHECK(resumed.warnings[1].find("aside") != std::string::npos);
  REQUIRE(!resumed.notes.empty());
  CHECK(resumed.notes[0].find("step-00000002") != std::string::npos);
  CHECK(test::metric(folder.path() / "run", "step") == std::vector<double>{1, 2, 3, 4, 5, 6});
}

TEST_CASE("A run that starts over keeps its own checkpoints, and moves later ones of the old run aside", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.checkpoint.every = 3;
  run_training(config, {1, folder.path() / "run"});
  config.checkpoint.every = 2;
  config.train.steps = 4;
  const auto again = run_training(config, {1, folder.path() / "run", Resume::kNone});
  REQUIRE(again.warnings.size() == 1);
  CHECK(again.warnings[0].find("aside") != std::string::npos);
  const auto all = list_checkpoints(folder.path() / "run/checkpoints");
  REQUIRE(all.size() == 2);
  CHECK(all[0].filename() == "step-00000004");
  CHECK(all[1].filename() == "step-00000002");
  CHECK(fs::exists(folder.path() / "run/checkpoints/abandoned-step-00000006/manifest.json"));
}

TEST_CASE("A manifest nested like a bomb is refused", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.checkpoint.every = 6;
  run_training(config, {1, folder.path() / "run"});
  const fs::path checkpoint = folder.path() / "run/checkpoints/step-00000006";
  const std::string deep(1000000, '[');
  test::put_bytes(checkpoint / "manifest.json", "{\"format\": \"weft.checkpoint\", \"x\": " + deep);
  CHECK_THROWS_AS(Checkpoint(checkpoint), Error);
}

TEST_CASE("The newest checkpoints stay, leftovers of a killed save go", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.checkpoint.every = 1;
  config.checkpoint.keep = 2;
  const fs::path checkpoints = folder.path() / "run/checkpoints";
  fs::create_directories(checkpoints / ".saving-step-00000099");
  run_training(config, {2, folder.path() / "run"});
  const auto all = list_checkpoints(checkpoints);
  REQUIRE(all.size() == 2);
  CHECK(all[0].filename() == "step-00000006");
  CHECK(all[1].filename() == "step-00000005");
  CHECK(std::distance(fs::directory_iterator(checkpoints), {}) == 2);
}

TEST_CASE("A checkpoint that cannot be written leaves training and the old one alone", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.checkpoint.every = 3;
  fs::create_directories(folder.path() / "run");
  std::ofstream(folder.path() / "run/checkpoints") << "a file where the folder should be";
  const auto run = run_training(config, {2, folder.path() / "run", Resume::kNone});
  CHECK(run.outcome == TrainOutcome::kFinished);
  CHECK(run.warnings.size() == 2);
  CHECK(test::metric(folder.path() / "run", "step").size() == 6);
}

TEST_CASE("--init_from takes the weights alone", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.checkpoint.every = 6;
  run_training(config, {2, folder.path() / "first"});
  const fs::path from = folder.path() / "first/checkpoints/step-00000006";
  const auto run = run_training(config, {1, folder.path() / "second", Resume::kAuto, from});
  REQUIRE(!run.notes.empty());
  CHECK(run.notes[0].find("weights from") != std::string::npos);
  CHECK(test::metric(folder.path() / "second", "step").front() == 1);
  CHECK(test::metric(folder.path() / "second", "lr") == test::metric(folder.path() / "first", "lr"));
  CHECK(test::metric(folder.path() / "second", "loss").front() < test::metric(folder.path() / "first", "loss").front());
}

TEST_CASE("What cannot run says why, with a code", "[trainer]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  const test::TrainCall call{2, folder.path() / "run"};
  ErrorCode code = ErrorCode::kInternal;
  std::string text;
  SECTION("a token outside the vocabulary") {
    config.model.vocab_size = 20;
    text = error_of_training(config, call, code);
    CHECK(code == ErrorCode::kInvalidArgument);
    CHECK_THAT(text, Catch::Contains("train.bin") && Catch::Contains("20"));
  }
  SECTION("a missing file") {
    config.data.train = {"/nowhere/tokens.bin"};
    text = error_of_training(config, call, code);
    CHECK(code == ErrorCode::kIo);
    CHECK_THAT(text, Catch::Contains("/nowhere/tokens.bin"));
  }
  SECTION("a truncated file") {
    fs::resize_file(config.data.train[0], 1500);
    text = error_of_training(config, call, code);
    CHECK(code == ErrorCode::kIo);
    CHECK_THAT(text, Catch::Contains("train.bin"));
  }
  SECTION("a loss that is not finite") {
    config.model.init_std = 1e200;
    text = error_of_training(config, call, code);
    CHECK(code == ErrorCode::kNonFinite);
    CHECK_THAT(text, Catch::Contains("step 1"));
  }
  SECTION("a checkpoint of another model") {
    config.checkpoint.every = 3;
    run_training(config, call);
    config.model.layers = 1;
    text = error_of_training(config, call, code);
    CHECK(code == ErrorCode::kInvalidArgument);
    CHECK_THAT(text, Catch::Contains("layers.1.attention.q.weight is not part of the model"));
  }
  SECTION("a checkpoint of another dtype") {
    config.checkpoint.every = 3;
    run_training(config, call);
    config.train.dtype = DType::kF32;
    text = error_of_training(config, call, code);
    CHECK_THAT(text, Catch::Contains("F64") && Catch::Contains("--init_from"));
  }
}
