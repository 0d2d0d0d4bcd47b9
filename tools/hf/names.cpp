#include "tools/hf/names.h"

#include <charconv>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace weft::tools {
namespace {

using Names = std::pair<std::string_view, std::string_view>;  // Weft's, Hugging Face's

constexpr Names kWhole[] = {
    {"embed.tokens.weight", "model.embed_tokens.weight"},
    {"final_norm.weight", "model.norm.weight"},
    {"lm_head.weight", "lm_head.weight"},
};
constexpr Names kOfLayer[] = {
    {"attention_norm.weight", "input_layernorm.weight"}, {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"attention.q.weight", "self_attn.q_proj.weight"},   {"attention.k.weight", "self_attn.k_proj.weight"},
    {"attention.v.weight", "self_attn.v_proj.weight"},   {"attention.o.weight", "self_attn.o_proj.weight"},
};
constexpr Names kOfExpert[] = {{"gate.weight", "w1.weight"}, {"up.weight", "w3.weight"}, {"down.weight", "w2.weight"}};

template <std::size_t N>
std::string_view find(const Names (&table)[N], std::string_view weft_name) {
  for (const auto& [mine, theirs] : table)
    if (mine == weft_name) return theirs;
  return {};
}

// Takes the text up to the next '.' off the front of `name`.
std::string_view take_part(std::string_view& name) {
  const std::size_t dot = name.find('.');
  const std::string_view part = name.substr(0, dot);
  name.remove_prefix(dot == std::string_view::npos ? name.size() : dot + 1);
  return part;
}

// `name`: what follows "layers.N.moe.experts."; `prefix`: up to and with "experts".
HfSlice expert_slice(const parallel::ParameterSpec& spec, std::string_view name, const std::string& prefix,
                     const parallel::ModelConfig& model, bool fused) {
  const std::string_view number = take_part(name), matrix = find(kOfExpert, name);
  std::int64_t expert = -1;
  std::from_chars(number.data(), number.data() + number.size(), expert);
  if (matrix.empty() || expert < 0) return {};
  if (!fused) return {str(prefix, ".", number, ".", matrix), spec.shape(), 0};
  const std::int64_t count = spec.count(), experts = model.moe.experts;
  if (name == "down.weight") return {prefix + ".down_proj", {experts, spec.rows, spec.cols}, expert * count};
  const std::int64_t half = name == "up.weight" ? 1 : 0;
  return {prefix + ".gate_up_proj", {experts, 2 * spec.rows, spec.cols}, (2 * expert + half) * count};
}

}  // namespace

HfSlice hf_slice(const parallel::ParameterSpec& spec, const parallel::ModelConfig& model, const HfLayout& layout) {
  if (const auto whole = find(kWhole, spec.name); !whole.empty()) return {std::string(whole), spec.shape(), 0};
  std::string_view name = spec.name;
  if (take_part(name) == "layers") {
    const std::string layer = str("model.layers.", take_part(name), ".");
    constexpr std::string_view kExperts = "moe.experts.";
    if (const auto inside = find(kOfLayer, name); !inside.empty())
      return {layer + std::string(inside), spec.shape(), 0};
    if (name == "moe.gate.weight") return {layer + layout.moe + ".gate.weight", spec.shape(), 0};
    if (name.starts_with(kExperts)) {
      const HfSlice slice =
          expert_slice(spec, name.substr(kExperts.size()), layer + layout.moe + ".experts", model, layout.fused);
      if (!slice.tensor.empty()) return slice;
    }
  }
  throw Error(ErrorCode::kInvalidArgument, str("Mixtral has no equivalent of ", spec.name),
              "only models of family MIXTRAL with MoE layers throughout have a Hugging Face form");
}

}  // namespace weft::tools
