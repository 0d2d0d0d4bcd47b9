// parallel/model/model_config.h - what a decoder-only MoE transformer looks like: described by data, not by code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weft::parallel {

/// kMixtral: RMSNorm, RoPE, grouped-query attention, SwiGLU feed-forward, no biases (arXiv:2401.04088).
/// kGpt2Moe: LayerNorm, learned positions, GELU feed-forward, biases (GPT-2 with MoE layers in place of some MLPs).
enum class ModelFamily { kMixtral, kGpt2Moe };

/// Over which tokens f_i of the balance loss is counted (P_i always per routing group, mean over groups).
/// kRoutingGroup: the group itself. kGlobalPrevious: the whole previous step (uniform in the first). kGlobalRunning:
/// the micro-batches of this step up to and with this one, over all ranks.
enum class BalanceScope { kRoutingGroup, kGlobalPrevious, kGlobalRunning };

/// kPerLayer: sum over layers of mean over groups of E * sum_i f_i P_i, with f_i = share of the choices (sums to 1).
/// kHuggingFace: f and P averaged over all layers first and f not divided by K, as transformers'
/// load_balancing_loss_func.
enum class BalanceForm { kPerLayer, kHuggingFace };

struct MoeConfig {
  int experts = 8;                        ///< E of a MoE layer.
  int top_k = 2;                          ///< K, in [1, E].
  double capacity_factor = 0.0;           ///< f of C = ceil(f * K * n / E), n tokens of the routing group; 0: dropless.
  std::string gate = "softmax_top_k";     ///< The router, by its name in parallel/moe/gate_registry.h.
  std::vector<std::string> gate_options;  ///< What is the gate's own, "name=number" each.
  bool renormalize = true;                ///< Weights of a token's choices sum to 1 (before drops).
  double balance_loss_coef = 0.01;
  BalanceScope balance_scope = BalanceScope::kRoutingGroup;
  BalanceForm balance_form = BalanceForm::kPerLayer;
  double z_loss_coef = 0.0;      ///< Weight of mean over tokens of logsumexp(router logits)^2, summed over layers.
  int group_sequences = 1;       ///< Consecutive sequences of one routing group (RG).
  bool allow_noncausal = false;  ///< Gates whose routing looks at later tokens are allowed.
  friend bool operator==(const MoeConfig&, const MoeConfig&) = default;
};

/// How rows travel to the experts' ranks: parallel/moe/dispatchers. kAllToAll: one collective over the EP group.
/// kHierarchical1d: through one leader a node. kHierarchical2d: inside nodes, then between ranks of equal place.
enum class DispatcherKind { kAllToAll, kHierarchical1d, kHierarchical2d };

struct ModelConfig {
  ModelFamily family = ModelFamily::kMixtral;
  int layers = 4;
  int model_dim = 128;          ///< M
  int expert_hidden_dim = 256;  ///< H
  int dense_hidden_dim = 0;     ///< Hidden width of dense feed-forward layers; 0: 4 * M.
  int heads = 4;
  int kv_heads = 2;  ///< Divides heads. kGpt2Moe: usually equal to heads.
  int head_dim = 0;  ///< 0: model_dim / heads.
  int vocab_size = 257;
  int max_positions = 1024;  ///< Rows of the learned position table (kGpt2Moe only).
  double rope_theta = 1e4;
  double norm_eps = 1e-5;
  double init_std = 0.02;
  bool tie_embeddings = false;  ///< lm_head is the token embedding.
  /// Which layers are MoE: 'M' MoE, 'D' dense, repeated over the layers: "M" all, "DM" every second.
  std::string layer_pattern = "M";
  MoeConfig moe;

  [[nodiscard]] bool is_moe_layer(int layer) const {
    return layer_pattern[static_cast<std::size_t>(layer) % layer_pattern.size()] == 'M';
  }
  [[nodiscard]] int head_width() const { return head_dim > 0 ? head_dim : model_dim / heads; }
  [[nodiscard]] int dense_width() const { return dense_hidden_dim > 0 ? dense_hidden_dim : 4 * model_dim; }
  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

}  // namespace weft::parallel
