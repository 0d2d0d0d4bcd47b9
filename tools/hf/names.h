// tools/hf/names.h - where each parameter of a Mixtral-like Weft model stands in a Hugging Face model.
// Source: transformers, models/mixtral/modeling_mixtral.py. Files hold one tensor per expert and matrix (w1 = gate, w3
// = up, w2 = down), in memory transformers 5 fuses them: experts.gate_up_proj [E, 2H, M], gate first, and
// experts.down_proj [E, M, H]. M model width, H expert hidden width, E experts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/model/parameters.h"

namespace weft::tools {

/// How a folder spells its MoE layers. The default is what transformers writes and what Weft exports.
struct HfLayout {
  std::string moe = "block_sparse_moe";  ///< Name of the MoE block in a layer; "mlp" in transformers 5's memory.
  bool fused = false;                    ///< Experts of a layer stand in two 3-D tensors.
  friend bool operator==(const HfLayout&, const HfLayout&) = default;
};

/// A run of elements of one Hugging Face tensor.
struct HfSlice {
  std::string tensor;
  std::vector<std::int64_t> shape;  ///< Of the whole tensor.
  std::int64_t first = 0;           ///< Element where the parameter begins; it is as long as the parameter.
};

/// Where `spec`, a parameter of the kMixtral model `model`, stands. Throws Error{kInvalidArgument} for one that Mixtral
/// does not have (biases, positions, dense layers).
[[nodiscard]] HfSlice hf_slice(const parallel::ParameterSpec& spec, const parallel::ModelConfig& model,
                               const HfLayout& layout = {});

}  // namespace weft::tools
