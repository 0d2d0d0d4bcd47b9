// weft import hf and weft export hf, as a user calls them.
#include <nlohmann/json.hpp>

#include "parallel/train/checkpoint.h"
#include "tests/support/catch.h"
#include "tests/tools/hf_folder.h"
#include "tests/tools/run_weft.h"
#include "tools/config/loader.h"
#include "tools/hf/import.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

test::CommandResult run(const test::HfCopy& copy, const std::vector<std::string>& words) {
  return test::run_weft(words, copy.path().parent_path().string());
}

TEST_CASE("import, evaluate, export, and import again") {
  const test::HfCopy copy("per_expert");
  const std::string hf = copy.path().string(), checkpoint = copy.out().string() + "/", out = hf + "-out";
  const test::CommandResult imported = run(copy, {"import", "hf", hf, "--out", checkpoint, "--json"});
  REQUIRE(imported.status == 0);
  CHECK(Json::parse(imported.output)["tensors"] == 47);
  CHECK(Json::parse(imported.output)["parameters"] == 76464);
  CHECK_THAT(imported.errors, Catch::Matchers::StartsWith("note: router_aux_loss_coef"));
  CHECK(run(copy, {"checkpoint", "verify", checkpoint}).status == 0);
  CHECK(run(copy, {"eval", "--checkpoint", checkpoint, "--tokens", hf + "/tokens.bin"}).status == 0);

  const test::CommandResult exported =
      run(copy, {"export", "hf", checkpoint, "--out", out, "--max_file_size", "100KB", "--json"});
  REQUIRE(exported.status == 0);
  const auto files = Json::parse(exported.output)["files"].get<int>();
  CHECK(files >= 4);
  CHECK(fs::exists(out + "/generation_config.json"));
  CHECK(run(copy, {"import", "hf", out, "--out", hf + "-again"}).status == 0);
  CHECK(run(copy, {"checkpoint", "diff", checkpoint, hf + "-again"}).status == 0);
  SECTION("exporting over it, in one file, leaves no shard behind") {
    REQUIRE(run(copy, {"export", "hf", checkpoint, "--out", out, "--force"}).status == 0);
    CHECK(fs::exists(out + "/model.safetensors"));
    CHECK(std::distance(fs::directory_iterator(out), fs::directory_iterator()) == 3);
  }
}

TEST_CASE("nothing is written over without being asked to") {
  const test::HfCopy copy("per_expert");
  const std::string hf = copy.path().string(), checkpoint = copy.out().string();
  REQUIRE(run(copy, {"import", "hf", hf, "--out", checkpoint}).status == 0);
  const test::CommandResult again = run(copy, {"import", "hf", hf, "--out", checkpoint});
  CHECK(again.status == 2);
  CHECK_THAT(again.errors,
             Catch::Contains("exists already") && Catch::Contains("hint: give another folder, or --force"));
  CHECK(run(copy, {"import", "hf", hf, "--out", checkpoint, "--force"}).status == 0);
  CHECK(run(copy, {"import", "hf", hf, "--out", hf, "--force"}).status == 2);  // its own source is no checkpoint
  CHECK(fs::exists(hf + "/config.json"));
  CHECK(run(copy, {"export", "hf", checkpoint, "--out", hf}).status == 2);
}

TEST_CASE("export says where transformers will behave otherwise") {
  const test::HfCopy copy("per_expert");
  parallel::RunConfig config = import_hf(copy.path(), copy.out()).config;
  config.model.moe.capacity_factor = 1.25;
  std::map<std::string, std::vector<float>> weights;
  for (const parallel::ParameterSpec& spec : global_parameters(config.model))
    weights[spec.name].resize(static_cast<std::size_t>(spec.count()));
  parallel::save_weights(copy.out(), config.model, weights, to_text(config));
  const test::CommandResult result =
      run(copy, {"export", "hf", copy.out().string(), "--out", copy.out().string() + "-hf"});
  CHECK(result.status == 0);
  CHECK_THAT(result.errors, Catch::Matchers::StartsWith("note: model.moe.capacity_factor"));
}

TEST_CASE("import and export end with the documented status") {
  const test::HfCopy copy("per_expert");
  const std::string hf = copy.path().string(), out = copy.out().string();
  CHECK(run(copy, {"import", "hf", hf + "-none", "--out", out}).status == 74);
  CHECK(run(copy, {"export", "hf", hf, "--out", out}).status == 74);  // no checkpoint
  CHECK(run(copy, {"import", "hf", hf}).status == 2);
  CHECK(run(copy, {"export", "hf", hf, "--out", out, "--max_file_size", "0"}).status == 2);
  copy.edit_json("config.json", [](Json& c) { c["hidden_act"] = "relu"; });
  const test::CommandResult foreign = run(copy, {"import", "hf", hf, "--out", out});
  CHECK(foreign.status == 2);
  CHECK_THAT(foreign.errors, Catch::Contains("hidden_act = \"relu\""));
  CHECK(!fs::exists(out));
}

}  // namespace
}  // namespace weft::tools
