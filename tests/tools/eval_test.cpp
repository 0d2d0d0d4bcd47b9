#include "tools/eval/evaluate.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "core/safetensors.h"
#include "core/token_shard.h"
#include "parallel/eval/evaluator.h"
#include "parallel/train/checkpoint.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/generators.h"
#include "tests/support/temp_folder.h"
#include "tests/support/training.h"
#include "tests/tools/run_weft.h"
#include "tools/config/loader.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using parallel::RunConfig;
using Json = nlohmann::json;

// A model with random weights and a token file.
class EvalTest {
 public:
  explicit EvalTest(const std::function<void(RunConfig&)>& change = [](RunConfig&) {}) {
    config.model.layers = 2;
    config.model.model_dim = 16;
    config.model.expert_hidden_dim = 12;
    config.model.vocab_size = 31;
    config.model.moe.experts = 5;
    config.train.sequence_length = 8;
    config.train.micro_batch = 3;
    config.train.global_batch = 3;
    config.train.dtype = DType::kF64;
    change(config);
    std::map<std::string, std::vector<float>> weights;
    for (const parallel::ParameterSpec& spec : global_parameters(config.model))
      for (std::int64_t i = 0; i < spec.count(); ++i)
        weights[spec.name].push_back(static_cast<float>(0.3 * random.normal()));
    parallel::save_weights(folder / "checkpoint", config.model, weights, to_text(config));
    write_tokens(8 * 7 + 1);  // 7 sequences: passes of 3, 3 and 1
  }
  void write_tokens(std::int64_t count) {
    TokenShardWriter writer(tokens());
    writer.append(random.integers(count, 0, 31));
    writer.finish();
  }
  [[nodiscard]] std::string tokens() const { return file("tokens.bin"); }
  [[nodiscard]] std::string file(const std::string& name) const { return (folder / name).string(); }
  EvalReport run(const EvalRequest& request) const {
    return evaluate(config, parallel::Checkpoint(folder / "checkpoint"), request);
  }
  [[nodiscard]] test::CommandResult command(std::vector<std::string> words) const {
    words.insert(words.begin(), {"eval", "--checkpoint", file("checkpoint"), "--tokens", tokens()});
    return test::run_weft(words, folder.path().string());
  }

  test::TempFolder folder;
  test::Random random{7};
  RunConfig config;
};

std::vector<double> read_all(const std::string& path, const std::string& name) {
  const SafetensorsReader file(path);
  const TensorInfo& info = file.get(name);
  std::vector<double> out(static_cast<std::size_t>(info.num_elements()));
  file.read(info, 0, info.num_elements(), out.data());
  return out;
}

// Mean cross-entropy of the file's first sequences by its definition, from the logits that were written.
double loss_of(const std::vector<double>& logits, const std::string& tokens_file, std::int64_t targets,
               std::int64_t vocab) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(targets + 1));
  open_token_shard(tokens_file)->read(0, tokens);
  double sum = 0.0;
  for (std::int64_t i = 0; i < targets; ++i) {
    const double* row = logits.data() + i * vocab;
    double total = 0.0;
    for (std::int64_t v = 0; v < vocab; ++v) total += std::exp(row[v]);
    sum += std::log(total) - row[tokens[static_cast<std::size_t>(i + 1)]];
  }
  return sum / static_cast<double>(targets);
}

TEST_CASE("the loss is the mean cross-entropy of the logits, whatever the batches") {
  EvalTest t;
  const int micro_batch = GENERATE(1, 2, 3, 7, 100);
  t.config.train.micro_batch = micro_batch;
  const EvalReport report = t.run({t.tokens(), 0, t.file("logits"), "", ""});
  CHECK(report.num_sequences == 7);
  CHECK(report.num_targets == 56);
  CHECK(report.sequence_length == 8);
  const SafetensorsReader file(t.file("logits"));
  CHECK(file.get("logits").shape == std::vector<std::int64_t>{7, 8, 31});
  CHECK(file.get("logits").dtype == DType::kF64);
  CHECK(report.loss == Approx(loss_of(read_all(t.file("logits"), "logits"), t.tokens(), 56, 31)).epsilon(1e-12));
}

TEST_CASE("the first sequences of the file, in file order") {
  EvalTest t;
  t.run({t.tokens(), 0, t.file("all"), "", ""});
  const EvalReport report = t.run({t.tokens(), 4, t.file("some"), "", ""});
  CHECK(report.num_targets == 32);
  auto all = read_all(t.file("all"), "logits");
  const auto some = read_all(t.file("some"), "logits");
  all.resize(some.size());
  for (std::size_t i = 0; i < some.size(); ++i) REQUIRE(some[i] == Approx(all[i]).epsilon(1e-12));
  CHECK_THROWS_AS(t.run({t.tokens(), 8, "", "", ""}), Error);
}

TEST_CASE("a file shorter than a sequence is one shorter sequence") {
  EvalTest t;
  t.write_tokens(6);
  const EvalReport report = t.run({t.tokens(), 0, "", "", ""});
  CHECK(report.num_sequences == 1);
  CHECK(report.sequence_length == 5);
  t.write_tokens(1);
  test::check_error(ErrorCode::kInvalidArgument, "1 tokens", [&] { (void)t.run({t.tokens(), 0, "", "", ""}); });
}

TEST_CASE("gradients are those of the mean loss, by central differences") {
  EvalTest t([](RunConfig& c) { c.model.moe.balance_loss_coef = 0.0; });
  (void)t.run({t.tokens(), 2, "", t.file("gradients"), ""});
  const parallel::Checkpoint checkpoint(t.folder / "checkpoint");
  const auto perturbed = [&](std::size_t at, float by) {
    std::map<std::string, std::vector<float>> weights;
    for (const parallel::ParameterSpec& spec : global_parameters(t.config.model)) {
      auto& w = weights[spec.name];
      w.resize(static_cast<std::size_t>(spec.count()));
      checkpoint.read("weight", spec.name, 0, spec.count(), w.data());
    }
    weights["layers.1.attention.v.weight"][at] += by;
    parallel::save_weights(t.folder / "other", t.config.model, weights, "");
    const float moved = weights["layers.1.attention.v.weight"][at];
    return std::pair(evaluate(t.config, parallel::Checkpoint(t.folder / "other"), {t.tokens(), 2, "", "", ""}).loss,
                     double(moved));
  };
  const auto gradient = read_all(t.file("gradients"), "model.layers.1.self_attn.v_proj.weight");
  for (const std::size_t at : {0u, 17u, 63u}) {
    const auto [high, w_high] = perturbed(at, 1e-3f);
    const auto [low, w_low] = perturbed(at, -1e-3f);
    CHECK((high - low) / (w_high - w_low) == Approx(gradient[at]).epsilon(1e-4).margin(1e-8));
  }
}

TEST_CASE("gradients have Hugging Face names where the model has a Hugging Face form") {
  const bool mixtral = GENERATE(true, false);
  EvalTest t([&](RunConfig& c) {
    if (mixtral) return;
    c.model.family = parallel::ModelFamily::kGpt2Moe;
    c.model.layer_pattern = "DM";
  });
  (void)t.run({t.tokens(), 0, "", t.file("gradients"), ""});
  const SafetensorsReader file(t.file("gradients"));
  CHECK(file.tensors().size() == global_parameters(t.config.model).size());
  CHECK((file.find("model.layers.1.block_sparse_moe.experts.4.w3.weight") != nullptr) == mixtral);
  CHECK((file.find("layers.0.ffn.up.bias") != nullptr) == !mixtral);
}

TEST_CASE("routing lists distinct experts by falling weight, of MoE layers only") {
  EvalTest t([](RunConfig& c) { c.model.layer_pattern = "DM"; });
  t.run({t.tokens(), 0, "", "", t.file("routing")});
  const SafetensorsReader file(t.file("routing"));
  CHECK(file.tensors().size() == 2);
  const std::vector<std::int64_t> shape{7, 8, 2};
  REQUIRE(file.get("layers.1.expert").shape == shape);
  REQUIRE(file.get("layers.1.weight").shape == shape);
  const auto data = file.data(file.get("layers.1.expert"));
  const auto weight = read_all(t.file("routing"), "layers.1.weight");
  for (std::size_t i = 0; i < weight.size(); i += 2) {
    std::int32_t expert[2];
    std::memcpy(expert, data.data() + 4 * i, 8);
    REQUIRE((expert[0] != expert[1] && std::min(expert[0], expert[1]) >= 0 && std::max(expert[0], expert[1]) < 5));
    REQUIRE(weight[i] >= weight[i + 1]);
    REQUIRE(weight[i] + weight[i + 1] == Approx(1.0).epsilon(1e-12));
  }
}

TEST_CASE("sequences come in whole routing groups") {
  EvalTest t([](RunConfig& c) { c.model.moe.group_sequences = 3; });
  CHECK(t.run({t.tokens(), 0, "", "", ""}).num_sequences == 6);
  test::check_error(ErrorCode::kInvalidArgument, "routing group", [&] { (void)t.run({t.tokens(), 4, "", "", ""}); });
}

TEST_CASE("the layout that the checkpoint was trained in does not matter") {
  EvalTest t([](RunConfig& c) {
    c.parallel.expert = 5;
    c.train.global_batch = 15;
  });
  CHECK_NOTHROW(t.run({t.tokens(), 0, "", "", ""}));
}

TEST_CASE("weft eval reports what evaluate found") {
  EvalTest t;
  const test::CommandResult run = t.command({"--json", "--sequence_length", "4", "--sequences", "5"});
  REQUIRE(run.status == 0);
  const Json json = Json::parse(run.output);
  CHECK(json["sequences"] == 5);
  CHECK(json["sequence_length"] == 4);
  CHECK(json["targets"] == 20);
  CHECK(json["dtype"] == "F64");
  t.config.train.sequence_length = 4;
  CHECK(json["loss"].get<double>() == t.run({t.tokens(), 5, "", "", ""}).loss);
  const Json f32 = Json::parse(
      t.command({"--json", "--set", "train.dtype=F32", "--set", "train.sequence_length=4", "--sequences", "5"}).output);
  CHECK(f32["dtype"] == "F32");
  const Json bf16 = Json::parse(
      t.command({"--json", "--set", "train.dtype=BF16", "--set", "train.sequence_length=4", "--sequences", "5"})
          .output);
  CHECK(bf16["dtype"] == "BF16");
  CHECK(bf16["loss"] != f32["loss"]);
  CHECK(bf16["loss"].get<double>() == Approx(f32["loss"].get<double>()).epsilon(1e-2));
  CHECK(f32["loss"] != json["loss"]);
  CHECK(f32["loss"].get<double>() == Approx(json["loss"].get<double>()).epsilon(1e-5));
  CHECK_THAT(t.command({}).output, Catch::Matchers::StartsWith("loss: ") && Catch::Matchers::EndsWith(", in F64\n"));
}

TEST_CASE("an evaluation in BF16 writes its logits in BF16, gradients and routing weights in F32") {
  EvalTest t;
  t.run({t.tokens(), 0, t.file("logits"), t.file("gradients"), ""});
  t.run({t.tokens(), 0, "", "", t.file("routing")});
  const auto exact = [&](const char* file, const char* name) { return read_all(t.file(file), name); };
  const char* gradient = "model.layers.1.self_attn.v_proj.weight";
  const auto logits = exact("logits", "logits"), gradients = exact("gradients", gradient),
             weights = exact("routing", "layers.1.weight");
  t.config.train.dtype = DType::kBF16;
  t.run({t.tokens(), 0, t.file("logits"), t.file("gradients"), ""});
  t.run({t.tokens(), 0, "", "", t.file("routing")});
  const auto check = [&](const char* file, const char* name, DType dtype, const std::vector<double>& want) {
    INFO(file);
    CHECK(SafetensorsReader(t.file(file)).get(name).dtype == dtype);
    const auto got = exact(file, name);
    REQUIRE(got.size() == want.size());
    double difference = 0.0, norm = 0.0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      difference += (got[i] - want[i]) * (got[i] - want[i]);
      norm += want[i] * want[i];
    }
    CHECK(difference > 0.0);
    CHECK(difference < 0.05 * 0.05 * norm);  // a few tokens go to other experts
  };
  check("logits", "logits", DType::kBF16, logits);
  check("gradients", gradient, DType::kF32, gradients);
  check("routing", "layers.1.weight", DType::kF32, weights);
}

TEST_CASE("an evaluation in the dtype of a run finds what the run's own validation found") {
  const DType dtype = GENERATE(DType::kBF16, DType::kF32, DType::kF64);
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.train.dtype = dtype;
  config.checkpoint.every = config.train.steps;
  config.parallel.expert = 2;
  test::run_training(config, {2, folder / "run"});
  const parallel::Checkpoint checkpoint(folder / "run/checkpoints/step-00000006");
  const EvalRequest request{config.data.val.front(), config.train.validate_sequences, "", "", ""};
  const EvalReport report = evaluate(config, checkpoint, request);
  CHECK(report.dtype == dtype);
  const double close = dtype == DType::kF64 ? 1e-12 : 1e-6;  // ranks share the sum
  CHECK(report.loss == Approx(test::metric(folder / "run", "val_loss").back()).epsilon(close));
  if (dtype != DType::kBF16) return;
  config.train.dtype = DType::kF32;
  CHECK(std::abs(evaluate(config, checkpoint, request).loss / report.loss - 1.0) > 1e-5);
}

TEST_CASE("weft generate computes in the dtype that it is told") {
  EvalTest t([](RunConfig& c) { c.model.vocab_size = 257; });
  const auto text = [&](const char* dtype) {
    const test::CommandResult run = test::run_weft({"generate", "--checkpoint", t.file("checkpoint"), "--tokens", "64",
                                                    "--context", "4", "--json", "--set", str("train.dtype=", dtype)},
                                                   t.folder.path().string());
    REQUIRE(run.status == 0);
    const Json json = Json::parse(run.output);
    CHECK(json["dtype"] == dtype);
    return json["text"].get<std::string>();
  };
  CHECK(text("BF16") == text("BF16"));
  CHECK(text("BF16") != text("F64"));  // some draw of 64 falls between the two
  CHECK(text("F32") == text("F64"));
}

TEST_CASE("gates that look at later tokens have a loss, but no text and no list of experts") {
  const auto gate = GENERATE(as<std::string>{}, "expert_choice", "soft_moe");
  const EvalTest t([&](RunConfig& c) {
    c.model.moe.gate = gate;
    c.model.moe.allow_noncausal = true;
  });
  EvalRequest request;
  request.tokens = t.tokens();
  CHECK(t.run(request).loss > 0.0);
  const test::CommandResult routing = t.command({"--routing", t.file("routing.safetensors")});
  CHECK(routing.status == 2);
  CHECK_THAT(routing.errors, Catch::Matchers::Contains("no list of each token's experts"));
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    parallel::Evaluator<float> evaluator(t.config.model, parallel::Checkpoint(t.folder / "checkpoint"), world);
    test::check_error(ErrorCode::kInvalidArgument, "looks at later tokens", [&] {
      (void)evaluator.next_logits(std::vector<std::int32_t>{1, 2});
    });
  });
}

TEST_CASE("weft eval ends with the documented status") {
  EvalTest t;
  CHECK(t.command({"--set", "model.layers=3"}).status == 2);  // of another model
  CHECK(t.command({"--set", "model.moe.top_k=6"}).status == 2);
  CHECK(t.command({"--set", "model.nothing=6"}).status == 2);
  CHECK(t.command({"--sequences", "0"}).status == 2);
  CHECK(t.command({"--sequences", "8"}).status == 2);
  CHECK(t.command({"--logits", t.file("no/such/folder/logits")}).status == 74);
  const test::CommandResult outside = t.command({"--set", "model.vocab_size=20"});
  CHECK(outside.status == 2);
  fs::resize_file(t.tokens(), 1030);
  CHECK(t.command({}).status == 74);
  fs::remove(t.tokens());
  CHECK(t.command({}).status == 74);
  fs::remove(t.folder / "checkpoint/manifest.json");
  const test::CommandResult gone = t.command({});
  CHECK(gone.status == 74);
  CHECK_THAT(gone.errors, Catch::Matchers::StartsWith("error: "));
}

}  // namespace
}  // namespace weft::tools
