#include "tools/hf/hf_config.h"

#include <nlohmann/json.hpp>

#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/generators.h"

namespace weft::tools {
namespace {

using Json = nlohmann::json;
using parallel::ModelConfig;

Json minimal() {
  return {{"model_type", "mixtral"}, {"hidden_size", 48},         {"intermediate_size", 40},
          {"num_hidden_layers", 3},  {"num_attention_heads", 16}, {"vocab_size", 61}};
}

ModelConfig read(const Json& json) { return read_hf_config(json.dump(), "config.json").model; }

TEST_CASE("config.json and back is the same model") {
  const int seed = GENERATE(range(0, 20));
  INFO("seed " << seed);
  test::Random random(static_cast<std::uint64_t>(seed));
  ModelConfig m;
  m.layers = static_cast<int>(1 + random.below(40));
  m.model_dim = static_cast<int>(1 + random.below(5000));
  m.expert_hidden_dim = static_cast<int>(1 + random.below(5000));
  m.kv_heads = static_cast<int>(1 + random.below(8));
  m.heads = m.kv_heads * static_cast<int>(1 + random.below(8));
  m.head_dim = static_cast<int>(2 * (1 + random.below(64)));
  m.vocab_size = static_cast<int>(1 + random.below(100000));
  m.max_positions = static_cast<int>(1 + random.below(100000));
  m.rope_theta = 1e6 * random.uniform();
  m.norm_eps = 1e-5 * random.uniform();
  m.init_std = random.uniform();
  m.tie_embeddings = random.below(2) == 1;
  m.moe.experts = static_cast<int>(1 + random.below(64));
  m.moe.top_k = static_cast<int>(1 + random.below(m.moe.experts));
  m.moe.balance_form = parallel::BalanceForm::kHuggingFace;
  m.moe.balance_loss_coef = random.below(2) == 1 ? random.uniform() : 0.0;
  CHECK(read_hf_config(write_hf_config(m, -1), "x").model == m);
}

TEST_CASE("fields that are not there take transformers' defaults") {
  const ModelConfig m = read(minimal());
  CHECK(m.kv_heads == 8);
  CHECK(m.head_dim == 0);
  CHECK(m.moe.experts == 8);
  CHECK(m.moe.top_k == 2);
  CHECK(m.rope_theta == 1e6);
  CHECK(m.norm_eps == 1e-5);
  CHECK(!m.tie_embeddings);
  Json json = minimal();
  json["num_key_value_heads"] = nullptr;
  CHECK(read(json).kv_heads == 16);
}

TEST_CASE("rope_theta is found where versions 4 and 5 put it") {
  Json json = minimal();
  SECTION("4") { json["rope_theta"] = 12345.0; }
  SECTION("4, with a scaling that scales nothing") {
    json["rope_theta"] = 12345.0;
    json["rope_scaling"] = {{"type", "default"}};
  }
  SECTION("5") { json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 12345.0}}; }
  CHECK(read(json).rope_theta == 12345.0);
}

TEST_CASE("the auxiliary loss counts only where transformers adds it") {
  Json json = minimal();
  json["router_aux_loss_coef"] = 0.25;
  const HfModel off = read_hf_config(json.dump(), "x");
  CHECK(off.model.moe.balance_loss_coef == 0.0);
  REQUIRE(off.notes.size() == 1);
  CHECK_THAT(off.notes[0], Catch::Contains("router_aux_loss_coef = 0.25"));
  json["output_router_logits"] = true;
  const HfModel on = read_hf_config(json.dump(), "x");
  CHECK(on.model.moe.balance_loss_coef == 0.25);
  CHECK(on.model.moe.balance_form == parallel::BalanceForm::kHuggingFace);
  CHECK(on.notes.empty());
}

TEST_CASE("what Weft cannot represent is refused by name") {
  const auto [key, value] = GENERATE(table<const char*, Json>({
      {"model_type", "llama"},
      {"architectures", Json::array({"MixtralForSequenceClassification"})},
      {"hidden_act", "gelu"},
      {"sliding_window", 4096},
      {"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}},
      {"rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e4}}},
      {"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}},
      {"rope_parameters", {{"rope_theta", "large"}}},
      {"rope_parameters", 3},
      {"attention_dropout", 0.1},
      {"router_jitter_noise", 0.1},
      {"attention_bias", true},
      {"quantization_config", {{"bits", 4}}},
      {"hidden_size", 0},
      {"hidden_size", 48.5},
      {"hidden_size", "48"},
      {"hidden_size", 4294967344},
      {"vocab_size", -1},
      {"head_dim", 0},
      {"num_key_value_heads", Json::array()},
      {"rms_norm_eps", "small"},
      {"tie_word_embeddings", 1},
      {"output_router_logits", "yes"},
  }));
  Json json = minimal();
  json[key] = value;
  INFO(json.dump());
  test::check_error(ErrorCode::kInvalidArgument, key, [&, &text = json] { (void)read(text); });
}

TEST_CASE("every problem is said at once") {
  Json json = minimal();
  json.erase("hidden_size");
  json.erase("model_type");
  json["hidden_act"] = "relu";
  const Error error = test::error_of([&] { (void)read(json); });
  for (const char* part : {"config.json", "hidden_size is missing", "model_type is missing", "hidden_act = \"relu\""})
    CHECK_THAT(error.message(), Catch::Contains(part));
}

TEST_CASE("what is no JSON object is an I/O error") {
  const std::string text = GENERATE(as<std::string>(), "", "{", "[]", "3", "nonsense", std::string(100000, '['));
  test::check_error(ErrorCode::kIo, "x is no JSON object", [&] { (void)read_hf_config(text, "x"); });
}

TEST_CASE("a model that Mixtral cannot be is not exported") {
  ModelConfig m;
  SECTION("family") {
    m.family = parallel::ModelFamily::kGpt2Moe;
    test::check_error(ErrorCode::kInvalidArgument, "model.family", [&] { (void)write_hf_config(m, -1); });
  }
  SECTION("another gate") {
    m.moe.gate = GENERATE(as<std::string>{}, "gshard", "soft_moe");
    test::check_error(ErrorCode::kInvalidArgument, "model.moe.gate", [&] { (void)write_hf_config(m, -1); });
  }
  SECTION("dense layers, and weights that are not normalised") {
    m.layer_pattern = "DM";
    m.moe.renormalize = false;
    const Error error = test::error_of([&] { (void)write_hf_config(m, -1); });
    CHECK_THAT(error.message(), Catch::Contains("model.layer_pattern") && Catch::Contains("model.moe.renormalize"));
  }
}

TEST_CASE("the token that ends a text goes along") {
  CHECK(Json::parse(write_hf_config({}, 256))["eos_token_id"] == 256);
  CHECK(Json::parse(write_hf_config({}, -1))["eos_token_id"].is_null());
}

}  // namespace
}  // namespace weft::tools
