// A checkpoint looked at on a GPU: the CPU's loss, logits, gradients, routing and samples.
#include <algorithm>
#include <cmath>
#include <map>

#include "comm/factory.h"
#include "core/token_shard.h"
#include "parallel/eval/evaluator.h"
#include "parallel/moe/gate_registry.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/generators.h"
#include "tests/support/temp_folder.h"
#include "tools/config/loader.h"
#include "tools/eval/evaluate.h"

using namespace weft;
using namespace weft::parallel;

namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};
constexpr double kClose = 1e-10;

/// A tiny model in F64 with random weights, and tokens.
struct Saved {
  explicit Saved(const std::string& gate) {
    config.model.layers = 2;
    config.model.model_dim = 16;
    config.model.expert_hidden_dim = 12;
    config.model.vocab_size = 31;
    config.model.moe.experts = 5;
    config.model.moe.gate = gate;
    config.train.sequence_length = 8;
    config.train.micro_batch = config.train.global_batch = 3;
    config.train.dtype = DType::kF64;
    std::map<std::string, std::vector<float>> weights;
    for (const ParameterSpec& spec : global_parameters(config.model))
      for (std::int64_t i = 0; i < spec.count(); ++i)
        weights[spec.name].push_back(static_cast<float>(0.3 * random.normal()));
    save_weights(folder / "checkpoint", config.model, weights, tools::to_text(config));
    TokenShardWriter writer(folder / "tokens.bin");
    writer.append(random.integers(8 * 7 + 1, 0, 31));
    writer.finish();
  }
  [[nodiscard]] Batch batch() {
    Batch out;
    out.num_sequences = 3;
    out.sequence_length = 8;
    out.tokens = random.integers(24, 0, 31);
    out.targets = random.integers(24, 0, 31);
    for (std::int32_t i = 0; i < 24; ++i) {
      out.positions.push_back(i % 8);
      out.segments.push_back(i / 8);
    }
    return out;
  }
  [[nodiscard]] Checkpoint checkpoint() const { return Checkpoint(folder / "checkpoint"); }

  test::TempFolder folder;
  test::Random random{7};
  RunConfig config;
};

/// Relative to the largest; 0 where both are empty.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double out = 0.0, largest = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    out = std::max(out, std::abs(a[i] - b[i]));
    largest = std::max(largest, std::abs(b[i]));
  }
  return out == 0.0 ? 0.0 : out / largest;
}

}  // namespace

TEST_CASE("A checkpoint has the CPU's loss, logits, gradients and routing on a GPU", "[eval][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const std::string gate = GENERATE("softmax_top_k", "sigmoid", "expert_choice");
  INFO(gate);
  Saved saved(gate);
  const Batch batch = saved.batch();
  const bool lists = gate_needs(saved.config.model).form == RoutingForm::kTokenList;
  using Outputs = Evaluator<double>::Outputs;
  const auto run = [&](Device device) {
    std::pair<Outputs, Outputs> out;
    comm::run_local_ranks(1, [&](comm::Communicator& world) {
      Evaluator<double> evaluator(saved.config.model, saved.checkpoint(), world, device);
      out.first = evaluator.run(batch, {.logits = true, .routing = lists});
      out.second = evaluator.run(batch, {.gradients = true});
    });
    return out;
  };
  const auto [there, there_gradients] = run(kGpu);
  const auto [here, here_gradients] = run({});
  CHECK(difference({there.loss}, {here.loss}) <= kClose);
  CHECK(there.logits.size() == 24 * 31);
  CHECK(difference(there.logits, here.logits) <= kClose);
  CHECK(there.expert == here.expert);
  CHECK(here.expert.size() == (lists ? 2 : 0));
  for (std::size_t layer = 0; layer < here.expert_weight.size(); ++layer)
    CHECK(difference(there.expert_weight[layer], here.expert_weight[layer]) <= kClose);
  CHECK(there_gradients.gradients.size() == here_gradients.gradients.size());
  for (const auto& [name, values] : here_gradients.gradients) {
    INFO(name);
    CHECK(difference(there_gradients.gradients.at(name), values) <= kClose);
  }
}

TEST_CASE("A text goes on with the same tokens on a GPU", "[eval][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const Saved saved("softmax_top_k");
  const auto run = [&](Device device, std::vector<double>& logits) {
    std::vector<std::int32_t> tokens{3};
    comm::run_local_ranks(1, [&](comm::Communicator& world) {
      Evaluator<double> evaluator(saved.config.model, saved.checkpoint(), world, device);
      for (std::uint64_t i = 0; i < 40; ++i) {  // past 32, for which the first pass is made
        logits = evaluator.next_logits(tokens);
        tokens.push_back(sample_token<double>(logits, {.temperature = 0.8}, i));
      }
    });
    return tokens;
  };
  std::vector<double> there, here;
  CHECK(run(kGpu, there) == run({}, here));
  CHECK(difference(there, here) <= kClose);
}

TEST_CASE("weft eval computes on the GPU that parallel.device asks for", "[eval][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  Saved saved("softmax_top_k");
  const auto run = [&](DeviceChoice device) {
    saved.config.parallel.device = device;
    tools::EvalRequest request;
    request.tokens = (saved.folder / "tokens.bin").string();
    return tools::evaluate(saved.config, saved.checkpoint(), request);
  };
  const tools::EvalReport here = run(DeviceChoice::kCpu), there = run(DeviceChoice::kCuda);
  CHECK(here.device == Device{});
  CHECK(there.device == kGpu);
  CHECK(run(DeviceChoice::kAuto).device == kGpu);
  CHECK(there.num_targets == 56);
  CHECK(difference({there.loss}, {here.loss}) <= kClose);
}
