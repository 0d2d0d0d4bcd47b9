#include "tools/bench/bench_train.h"

#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/printed.h"
#include "tools/train/process.h"

namespace weft::test {
namespace {

using parallel::DeviceChoice;

tools::BenchTrainOptions small_step(DeviceChoice device) {
  tools::BenchTrainOptions o;
  o.device = device;
  o.layers = 2;
  o.model_dim = 32;
  o.head_dim = 16;
  o.kv_heads = 1;
  o.expert_hidden_dim = 24;
  o.experts = 4;
  o.batch = 2;
  o.sequence_length = 16;
  o.steps = 3;
  o.gemm_side = 32;
  return o;
}

void check_spread(const nlohmann::json& facts, const std::string& name) {
  const double least = facts[name + "_min"], most = facts[name + "_max"], middle = facts[name];
  INFO(name << " " << least << " " << middle << " " << most);
  CHECK(least <= middle);
  CHECK(middle <= most);
}

}  // namespace

TEMPLATE_TEST_CASE("A training step is measured on every device", "[bench]", WEFT_DEVICES) {
  WEFT_NEED_DEVICE(TestType::kKind);
  const bool gpu = TestType::kKind == DeviceKind::kCuda;
  tools::BenchTrainOptions o = small_step(gpu ? DeviceChoice::kCuda : DeviceChoice::kCpu);
  const auto measure = [&] { return printed_json([&] { tools::bench_train(o, true); }); };
  for (const char* dtype : {"F32", "BF16"}) {
    INFO(dtype);
    o.dtype = dtype;
    const nlohmann::json facts = measure();
    CHECK(facts["kind"] == tools::name_of(TestType::kKind));
    CHECK(facts["dtype"] == dtype);
    check_spread(facts, "utilization");
    check_spread(facts, "launch_gap");
    CHECK(facts["utilization_min"] > 0.0);
    CHECK(facts["launch_gap_min"] >= 0.0);
    CHECK(facts["launch_gap_max"] < 1.0);
    CHECK(facts["stage_ms"].contains("expert"));
    CHECK(facts["stage_ms"].contains("host_wait") == gpu);  // counts of dropless rows
    CHECK(facts["recorded"] == false);
  }
  o.capacity_factor = 1.25;
  CHECK(measure()["model"]["capacity_factor"] == 1.25);
  o.pad_capacity = true;
  const nlohmann::json padded = measure();
  CHECK(!padded["stage_ms"].contains("host_wait"));
  CHECK(padded["recorded"] == gpu);
}

TEST_CASE("What does not go together is no training step", "[bench]") {
  const auto refuses = [](const char* why, const auto& change) {
    tools::BenchTrainOptions o = small_step(DeviceChoice::kCpu);
    change(o);
    check_error(ErrorCode::kInvalidArgument, why, [&] { tools::bench_train(o, true); });
  };
  refuses("--model_dim 40 is no multiple of --head_dim 16", [](auto& o) { o.model_dim = 40; });
  refuses("--kv_heads 3 of 2 heads", [](auto& o) { o.kv_heads = 3; });
  refuses("--top_k 5 of 4 experts", [](auto& o) { o.top_k = 5; });
  refuses("--pad_capacity without a capacity", [](auto& o) { o.pad_capacity = true; });
}

}  // namespace weft::test
