#include "tools/hf/hf_config.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "parallel/moe/gate_registry.h"

namespace weft::tools {
namespace {

using Json = nlohmann::json;
using parallel::BalanceForm;
using parallel::ModelConfig;
using parallel::ModelFamily;

// Reads fields of an object and collects what is wrong with them. null counts as not there, as in transformers.
class Fields {
 public:
  explicit Fields(const Json& json) : json_(json) {}

  [[nodiscard]] bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }
  [[nodiscard]] const Json& at(const char* key) const { return json_.at(key); }
  void problem(const std::string& text) { problems_.push_back(text); }
  void refuse(const char* key, const std::string& why) {
    problem(str(key, " = ", json_.at(key).dump(), " (", why, ")"));
  }

  int size(const char* key) {
    if (!has(key)) return problem(str(key, " is missing")), 1;
    return size(key, 1);
  }
  int size(const char* key, int otherwise) {
    if (!has(key)) return otherwise;
    const Json& value = at(key);
    const bool fits = value.is_number_integer() && value <= std::numeric_limits<int>::max() && value >= 1;
    if (!fits) return refuse(key, "a whole number from 1 on is wanted"), 1;
    return value.get<int>();
  }
  double number(const char* key, double otherwise) {
    if (!has(key)) return otherwise;
    if (!at(key).is_number()) return refuse(key, "a number is wanted"), otherwise;
    return at(key).get<double>();
  }
  bool flag(const char* key) {
    if (!has(key)) return false;
    if (!at(key).is_boolean()) return refuse(key, "true or false is wanted"), false;
    return at(key).get<bool>();
  }
  [[nodiscard]] const std::vector<std::string>& problems() const { return problems_; }

 private:
  const Json& json_;
  std::vector<std::string> problems_;
};

constexpr double kDefaultTheta = 1e6;  // of MixtralConfig
constexpr double kDefaultAuxLossCoef = 1e-3;

bool is_plain_rope(const Json& rope) {
  const char* key = rope.contains("rope_type") ? "rope_type" : "type";
  const bool plain_type = !rope.contains(key) || rope.at(key).is_null() || rope.at(key) == "default";
  return plain_type && (!rope.contains("partial_rotary_factor") || rope.at("partial_rotary_factor") == 1.0);
}

double read_rope_theta(Fields& fields) {
  double theta = fields.number("rope_theta", kDefaultTheta);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {  // of version 4 and 5
    if (!fields.has(key)) continue;
    const Json& rope = fields.at(key);
    if (!rope.is_object() || !is_plain_rope(rope)) {
      fields.refuse(key, "Weft has plain rotary positions");
    } else if (rope.contains("rope_theta")) {
      if (rope.at("rope_theta").is_number())
        theta = rope.at("rope_theta").get<double>();
      else
        fields.refuse(key, "its rope_theta must be a number");
    }
  }
  return theta;
}

// Whatever would make the weights mean something else than in Weft.
void refuse_the_foreign(Fields& fields) {
  if (!fields.has("model_type"))
    fields.problem("model_type is missing");
  else if (fields.at("model_type") != "mixtral")
    fields.refuse("model_type", "Weft imports \"mixtral\"");
  if (fields.has("architectures") && fields.at("architectures") != Json::array({"MixtralForCausalLM"}))
    fields.refuse("architectures", "Weft imports [\"MixtralForCausalLM\"]");
  if (fields.has("hidden_act") && fields.at("hidden_act") != "silu") fields.refuse("hidden_act", "Weft has \"silu\"");
  if (fields.has("sliding_window"))
    fields.refuse("sliding_window", "Weft attends to all tokens before; null is wanted");
  if (fields.has("quantization_config")) fields.refuse("quantization_config", "save the model unquantised");
  for (const char* key : {"attention_dropout", "router_jitter_noise"})
    if (fields.number(key, 0.0) != 0.0) fields.refuse(key, "Weft trains without; 0 is wanted");
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (fields.flag(key)) fields.refuse(key, "Weft has no such biases");
}

void read_balance_loss(Fields& fields, HfModel& out) {
  const double coef = fields.number("router_aux_loss_coef", kDefaultAuxLossCoef);
  const bool is_on = fields.flag("output_router_logits");
  out.model.moe.balance_form = BalanceForm::kHuggingFace;
  out.model.moe.balance_loss_coef = is_on ? coef : 0.0;
  if (!is_on && fields.has("router_aux_loss_coef") && coef != 0.0)
    out.notes.push_back(str("router_aux_loss_coef = ", coef,
                            " has no effect while output_router_logits is false, so model.moe.balance_loss_coef is 0"));
}

}  // namespace

HfModel read_hf_config(std::string_view json_text, std::string_view origin) {
  const Json json = Json::parse(json_text, nullptr, false);
  if (!json.is_object())
    throw Error(ErrorCode::kIo, str(origin, " is no JSON object"),
                "it must be the config.json of a Hugging Face model");
  Fields fields(json);
  HfModel out;
  ModelConfig& m = out.model;
  refuse_the_foreign(fields);
  m.family = ModelFamily::kMixtral;
  m.layers = fields.size("num_hidden_layers");
  m.model_dim = fields.size("hidden_size");
  m.expert_hidden_dim = fields.size("intermediate_size");
  m.heads = fields.size("num_attention_heads");
  m.kv_heads = json.contains("num_key_value_heads") ? fields.size("num_key_value_heads", m.heads) : 8;
  m.head_dim = fields.has("head_dim") ? fields.size("head_dim") : 0;
  m.vocab_size = fields.size("vocab_size");
  m.max_positions = fields.size("max_position_embeddings", 4096 * 32);
  m.rope_theta = read_rope_theta(fields);
  m.norm_eps = fields.number("rms_norm_eps", 1e-5);
  m.init_std = fields.number("initializer_range", 0.02);
  m.tie_embeddings = fields.flag("tie_word_embeddings");
  m.moe.experts = fields.size("num_local_experts", 8);
  m.moe.top_k = fields.size("num_experts_per_tok", 2);
  read_balance_loss(fields, out);
  if (fields.problems().empty()) return out;
  std::string text = str(origin, ": ", fields.problems().front());
  for (std::size_t i = 1; i < fields.problems().size(); ++i) text += "; " + fields.problems()[i];
  throw Error(ErrorCode::kInvalidArgument, text, "Weft imports Mixtral models as transformers saves them");
}

std::string write_hf_config(const ModelConfig& m, int end_of_text) {
  std::string problems;
  const auto refuse = [&](const char* path, const auto&... why) {
    problems += str(problems.empty() ? "" : "; ", path, " ", why...);
  };
  if (m.family != ModelFamily::kMixtral) refuse("model.family", "is not MIXTRAL");
  if (m.layer_pattern.find('D') != std::string::npos) refuse("model.layer_pattern", "has dense layers");
  if (m.moe.gate != "softmax_top_k") refuse("model.moe.gate", "is ", m.moe.gate, ": Mixtral's is softmax_top_k");
  if (!m.moe.renormalize) refuse("model.moe.renormalize", "is false: Mixtral's weights of a token sum to 1");
  if (!problems.empty())
    throw Error(ErrorCode::kInvalidArgument, "the model has no Hugging Face Mixtral form: " + problems,
                "only what Mixtral can represent is exported");
  nlohmann::ordered_json json{{"architectures", {"MixtralForCausalLM"}},
                              {"model_type", "mixtral"},
                              {"vocab_size", m.vocab_size},
                              {"hidden_size", m.model_dim},
                              {"intermediate_size", m.expert_hidden_dim},
                              {"num_hidden_layers", m.layers},
                              {"num_attention_heads", m.heads},
                              {"num_key_value_heads", m.kv_heads},
                              {"head_dim", m.head_width()},
                              {"hidden_act", "silu"},
                              {"max_position_embeddings", m.max_positions},
                              {"initializer_range", m.init_std},
                              {"rms_norm_eps", m.norm_eps},
                              {"rope_theta", m.rope_theta},
                              {"sliding_window", nullptr},
                              {"attention_dropout", 0.0},
                              {"num_experts_per_tok", m.moe.top_k},
                              {"num_local_experts", m.moe.experts},
                              {"router_jitter_noise", 0.0},
                              {"tie_word_embeddings", m.tie_embeddings},
                              {"bos_token_id", nullptr},
                              {"eos_token_id", nullptr},
                              {"torch_dtype", "float32"}};
  if (end_of_text >= 0) json["bos_token_id"] = json["eos_token_id"] = end_of_text;
  const bool same_loss = m.moe.balance_form == BalanceForm::kHuggingFace && m.moe.balance_loss_coef > 0.0;
  json["output_router_logits"] = same_loss;
  if (same_loss) json["router_aux_loss_coef"] = m.moe.balance_loss_coef;
  return json.dump(2) + "\n";
}

}  // namespace weft::tools
