#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "parallel/train/checkpoint.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tests/tools/run_weft.h"
#include "tools/checkpoint/checkpoints.h"
#include "tools/config/loader.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using parallel::Checkpoint;
using Json = nlohmann::json;
using Weights = std::map<std::string, std::vector<float>>;

constexpr const char* kName = "layers.0.attention.k.weight";

parallel::RunConfig small_config() {
  parallel::RunConfig config;
  config.model.layers = 1;
  config.model.model_dim = 8;
  config.model.expert_hidden_dim = 6;
  config.model.vocab_size = 11;
  config.model.moe.experts = 2;
  return config;
}

// Weights 1, 2, 3, ... of every tensor.
Weights weights_of(const parallel::RunConfig& config) {
  Weights out;
  for (const parallel::ParameterSpec& spec : global_parameters(config.model))
    for (std::int64_t i = 0; i < spec.count(); ++i) out[spec.name].push_back(static_cast<float>(i + 1));
  return out;
}

void save(
    const fs::path& folder, const parallel::RunConfig& config,
    const std::function<void(Weights&)>& change = [](Weights&) {}) {
  Weights weights = weights_of(config);
  change(weights);
  parallel::save_weights(folder, config.model, weights, to_text(config));
}

// A checkpoint of a run, with optimizer state.
void save_run(const fs::path& root, std::int64_t step, float second_moment) {
  const parallel::RunConfig config = small_config();
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    const parallel::Mesh mesh = parallel::make_mesh(1, 0, {});
    const parallel::MeshComms comms(world, mesh);
    const parallel::ParameterTable table(config.model, mesh);
    parallel::ParameterStore<float> store(table, Device{}, true);
    std::fill_n(store.weights(), table.count(), 1.0f);
    std::fill_n(store.v(), store.state_count(), second_moment);
    parallel::CheckpointState state;
    state.step = step;
    state.samples = 4 * step;
    state.tokens = 64 * step;
    state.config_text = to_text(config);
    (void)parallel::save_checkpoint(root, store, comms, state);
  });
}

// The differences that are not equal.
std::vector<TensorDifference> unequal(const fs::path& a, const fs::path& b) {
  std::vector<TensorDifference> out = compare(Checkpoint(a), Checkpoint(b));
  std::erase_if(out, [](const TensorDifference& d) { return d.equal(); });
  return out;
}

void flip_a_bit(const fs::path& file, std::int64_t from_the_end) {
  std::string bytes = test::get_bytes(file);
  bytes[bytes.size() - static_cast<std::size_t>(from_the_end)] ^= 1;
  test::put_bytes(file, bytes);
}

TEST_CASE("equal checkpoints have no difference, not even in NaN") {
  const test::TempFolder folder;
  const auto odd = [](Weights& w) { w[kName][3] = std::numeric_limits<float>::quiet_NaN(); };
  save(folder / "a", small_config(), odd);
  save(folder / "b", small_config(), odd);
  CHECK(compare(Checkpoint(folder / "a"), Checkpoint(folder / "b")).size() ==
        global_parameters(small_config().model).size());
  CHECK(unequal(folder / "a", folder / "b").empty());
}

TEST_CASE("a difference is measured against the largest value") {
  const test::TempFolder folder;
  save(folder / "a", small_config());
  save(folder / "b", small_config(), [](Weights& w) {
    w[kName][0] += 0.5f;
    w[kName][5] -= 2.0f;
  });
  const auto found = unequal(folder / "a", folder / "b");
  REQUIRE(found.size() == 1);
  CHECK(found[0].name == kName);
  CHECK(found[0].array == "weight");
  CHECK(found[0].num_different == 2);
  CHECK(found[0].max_abs == 2.0);
  CHECK(found[0].max_relative == Approx(2.0 / 32));  // [4 * 2, ...]: 32 elements
}

TEST_CASE("NaN on one side is a difference") {
  const test::TempFolder folder;
  save(folder / "a", small_config());
  save(folder / "b", small_config(), [](Weights& w) {
    w[kName][1] = std::numeric_limits<float>::quiet_NaN();
    w[kName][2] += 1.0f;
  });
  const auto found = unequal(folder / "a", folder / "b");
  REQUIRE(found.size() == 1);
  CHECK(found[0].num_different == 2);
  CHECK(std::isnan(found[0].max_abs));
}

TEST_CASE("tensors of one side, or of another shape, are a difference") {
  const test::TempFolder folder;
  parallel::RunConfig wider = small_config();
  wider.model.moe.experts = 3;
  save(folder / "a", small_config());
  save(folder / "b", wider);
  const auto there = unequal(folder / "a", folder / "b"), back = unequal(folder / "b", folder / "a");
  REQUIRE(there.size() == 4);  // three matrices of the new expert; the router
  CHECK(there.back().name == "layers.0.moe.gate.weight");
  CHECK(there.back().only == "of another shape");
  CHECK(there.front().only == "only in B");
  CHECK(back.front().only == "only in A");
}

TEST_CASE("optimizer states are compared where both have one") {
  const test::TempFolder folder;
  save_run(folder / "a", 3, 0.25f);
  save_run(folder / "b", 3, 0.5f);
  const auto found = unequal(folder / "a/step-00000003", folder / "b/step-00000003");
  CHECK(found.size() == global_parameters(small_config().model).size());
  for (const TensorDifference& d : found) CHECK((d.array == "v" && d.max_abs == 0.25));
}

TEST_CASE("checkpoints are found by run folder, by their folder, by themselves") {
  const test::TempFolder folder;
  for (const int step : {2, 10}) save_run(folder / "run/checkpoints", step, 0.0f);
  const fs::path root = folder / "run/checkpoints";
  const std::vector<fs::path> both{root / "step-00000010", root / "step-00000002"};
  CHECK(find_checkpoints(folder / "run") == both);
  CHECK(find_checkpoints(root) == both);
  CHECK(find_checkpoints(both[1]) == std::vector<fs::path>{both[1]});
  test::check_error(ErrorCode::kIo, "has no checkpoints", [&] { (void)find_checkpoints(folder.path()); });
  test::check_error(ErrorCode::kIo, "there is no folder", [&] { (void)find_checkpoints(folder / "none"); });
}

TEST_CASE("weft checkpoint ls lists newest first, and marks what cannot be read") {
  const test::TempFolder folder;
  for (const int step : {2, 10}) save_run(folder / "run/checkpoints", step, 0.0f);
  const auto list = [&] {
    return test::run_weft({"checkpoint", "ls", (folder / "run").string(), "--json"}, folder.path().string());
  };
  const test::CommandResult whole = list();
  CHECK(whole.status == 0);
  const Json json = Json::parse(whole.output);
  REQUIRE(json.size() == 2);
  CHECK(json[0]["step"] == 10);
  CHECK(json[0]["samples"] == 40);
  CHECK(json[0]["tokens"] == 640);
  CHECK(json[0]["optimizer"] == true);
  CHECK(json[0]["elements"] == parallel::count_parameters(small_config().model).total);
  CHECK(json[1]["step"] == 2);
  test::put_bytes(folder / "run/checkpoints/step-00000010/manifest.json", "{");
  const test::CommandResult damaged = list();
  CHECK(damaged.status == 74);
  CHECK(Json::parse(damaged.output)[0]["ok"] == false);
  CHECK(Json::parse(damaged.output)[1]["ok"] == true);
}

TEST_CASE("weft checkpoint verify finds a single flipped bit") {
  const test::TempFolder folder;
  save_run(folder.path(), 1, 0.0f);
  const fs::path checkpoint = folder / "step-00000001";
  const auto verify = [&] {
    return test::run_weft({"checkpoint", "verify", checkpoint.string()}, folder.path().string());
  };
  CHECK(verify().status == 0);
  flip_a_bit(checkpoint / "rank-00000.safetensors", GENERATE(1, 77, 500));
  const test::CommandResult damaged = verify();
  CHECK(damaged.status == 74);
  CHECK_THAT(damaged.errors, Catch::Matchers::StartsWith("error: ") && Catch::Contains("does not hold"));
}

TEST_CASE("weft checkpoint diff ends with 0 for equal, 1 for different, 74 for damaged") {
  const test::TempFolder folder;
  save(folder / "a", small_config());
  save(folder / "b", small_config(), [](Weights& w) { w[kName][0] += 1.0f; });
  const auto diff = [&](const char* a, const char* b) {
    return test::run_weft({"checkpoint", "diff", (folder / a).string(), (folder / b).string(), "--json"},
                          folder.path().string());
  };
  CHECK(diff("a", "a").status == 0);
  CHECK(Json::parse(diff("a", "a").output)["equal"] == true);
  const test::CommandResult different = diff("a", "b");
  CHECK(different.status == 1);
  const Json json = Json::parse(different.output);
  int count = 0;
  for (const Json& row : json["tensors"]) {
    if (row["equal"] == true) continue;
    ++count;
    CHECK(row["name"] == kName);
    CHECK(row["max_abs"] == 1.0);
  }
  CHECK(count == 1);
  flip_a_bit(folder / "b/rank-00000.safetensors", 4);
  CHECK(diff("a", "b").status == 74);
}

}  // namespace
}  // namespace weft::tools
