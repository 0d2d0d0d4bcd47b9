// tools/hf/hf_config.h - config.json of a Hugging Face Mixtral model, both ways.
// Source: transformers, models/mixtral/configuration_mixtral.py, versions 4 (rope_theta, rope_scaling) and 5
// (rope_parameters).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "parallel/model/model_config.h"

namespace weft::tools {

/// What a config.json says.
struct HfModel {
  parallel::ModelConfig model;
  std::vector<std::string>
      notes;  ///< What was read and means nothing to the weights, e.g. an auxiliary loss that is off.
};

/// Reads a config.json; `origin` names it in messages. Fields that are not there take MixtralConfig's defaults, but
/// sizes must be there. The auxiliary loss counts as in transformers: router_aux_loss_coef only when
/// output_router_logits is true. Throws Error{kIo} for what is no JSON object; Error{kInvalidArgument} with every field
/// that is missing, of a wrong type, or that says something Weft cannot represent (another model type or activation, a
/// sliding window, scaled rotary positions, dropout, quantisation).
[[nodiscard]] HfModel read_hf_config(std::string_view json_text, std::string_view origin);

/// config.json of `model`, for transformers 4 and 5. `end_of_text`: the token that ends a text, -1: none.
/// Throws Error{kInvalidArgument} with everything about `model` that Mixtral does not have.
[[nodiscard]] std::string write_hf_config(const parallel::ModelConfig& model, int end_of_text);

}  // namespace weft::tools
