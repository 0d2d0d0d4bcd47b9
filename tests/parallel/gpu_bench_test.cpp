// The measurements that train, on a GPU: they compute there, and say so.
#include "core/atomic_file.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/printed.h"
#include "tests/support/temp_folder.h"
#include "tools/bench/bench_observability.h"
#include "tools/bench/bench_policies.h"
#include "tools/train/process.h"

namespace weft::test {
namespace {

using parallel::DeviceChoice;

/// Small steps of `config`, for measurements that train it.
const std::vector<std::string> kSmallSteps{"model.layers=1",      "model.model_dim=32",   "model.expert_hidden_dim=16",
                                           "model.moe.experts=4", "train.global_batch=2", "train.sequence_length=16",
                                           "train.micro_batch=1"};

}  // namespace

TEST_CASE("Policies take turns on a GPU, with costs measured there", "[bench]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const TempFolder folder;
  tools::BenchPoliciesOptions o;
  o.config = std::string(WEFT_SOURCE_DIR) + "/configs/train/tiny.textproto";
  o.sets = kSmallSteps;
  for (const char* set : {"schedule.profile_min_r_squared=-1e9", "parallel.device=CPU"}) o.sets.emplace_back(set);
  o.sets.push_back("data.train=" + std::string(WEFT_SOURCE_DIR) + "/configs/data/tiny.train.bin");
  o.device = DeviceChoice::kCuda;
  o.policy = "sequential,weft";
  o.profile_out = folder.path() / "costs.textproto";
  o.rounds = 2;
  o.warmup = 1;
  const nlohmann::json facts = printed_json([&] { tools::bench_policies(o, true); });
  CHECK(facts["device"] == tools::device_name({DeviceKind::kCuda, 0}));
  CHECK(facts["policies"].size() == 2);
  CHECK(facts["loss_difference"] < 1e-5);
  CHECK(read_file(o.profile_out).find("device: CUDA") != std::string::npos);
}

TEST_CASE("What recording a run on a GPU costs is measured there", "[bench]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const TempFolder folder;
  tools::BenchObservabilityOptions o;
  o.config = std::string(WEFT_SOURCE_DIR) + "/configs/train/tiny.textproto";
  o.sets = kSmallSteps;
  o.sets.push_back("data.train=" + std::string(WEFT_SOURCE_DIR) + "/configs/data/tiny.train.bin");
  o.device = DeviceChoice::kCuda;
  o.run_dir = folder.path();
  o.rounds = 2;
  const nlohmann::json facts = printed_json([&] { tools::bench_observability(o, true); });
  CHECK(facts["device"] == tools::device_name({DeviceKind::kCuda, 0}));
  CHECK(facts["variants"].size() == 3);
}

}  // namespace weft::test
