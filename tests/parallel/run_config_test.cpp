#include "parallel/train/run_config.h"

#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "tests/support/catch.h"

namespace weft::parallel {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr int kMax = std::numeric_limits<int>::max();

struct Wrong {
  const char* path;  // the problem's beginning
  int world_size;
  std::function<void(RunConfig&)> change;
};

/// Sequences shared by heads * ring ranks, and a balance loss that allows it.
void share(RunConfig& c, int heads, int ring) {
  c.parallel.sequence_heads = heads;
  c.parallel.sequence_ring = ring;
  c.model.moe.balance_scope = BalanceScope::kGlobalPrevious;
}

const std::vector<Wrong> kWrong{
    {"name", 1, [](RunConfig& c) { c.name = ""; }},
    {"name", 1, [](RunConfig& c) { c.name = "../x"; }},
    {"name", 1, [](RunConfig& c) { c.name = "a/b"; }},
    {"name", 1, [](RunConfig& c) { c.name = "a b"; }},
    {"model.layers", 1, [](RunConfig& c) { c.model.layers = 0; }},
    {"model.model_dim", 1, [](RunConfig& c) { c.model.model_dim = -8; }},
    {"model.expert_hidden_dim", 1, [](RunConfig& c) { c.model.expert_hidden_dim = 0; }},
    {"model.dense_hidden_dim", 1, [](RunConfig& c) { c.model.dense_hidden_dim = -1; }},
    {"model.heads", 1, [](RunConfig& c) { c.model.heads = 0; }},
    {"model.heads", 1, [](RunConfig& c) { c.model.heads = c.model.kv_heads = 3; }},
    {"model.kv_heads", 1, [](RunConfig& c) { c.model.kv_heads = 0; }},
    {"model.kv_heads", 1, [](RunConfig& c) { c.model.kv_heads = 3; }},
    {"model.head_dim", 1, [](RunConfig& c) { c.model.head_dim = -1; }},
    {"model.head_dim", 1, [](RunConfig& c) { c.model.head_dim = 7; }},
    {"model.vocab_size", 1, [](RunConfig& c) { c.model.vocab_size = 0; }},
    {"model.max_positions", 1, [](RunConfig& c) { c.model.family = ModelFamily::kGpt2Moe, c.model.max_positions = 0; }},
    {"model.rope_theta", 1, [](RunConfig& c) { c.model.rope_theta = 0.0; }},
    {"model.norm_eps", 1, [](RunConfig& c) { c.model.norm_eps = kNan; }},
    {"model.init_std", 1, [](RunConfig& c) { c.model.init_std = kInf; }},
    {"model.layer_pattern", 1, [](RunConfig& c) { c.model.layer_pattern = ""; }},
    {"model.layer_pattern", 1, [](RunConfig& c) { c.model.layer_pattern = "MdM"; }},
    {"model.moe.experts", 1, [](RunConfig& c) { c.model.moe.experts = 0; }},
    {"model.moe.top_k", 1, [](RunConfig& c) { c.model.moe.top_k = 0; }},
    {"model.moe.top_k", 1, [](RunConfig& c) { c.model.moe.top_k = 9; }},
    {"model.moe.capacity_factor", 1, [](RunConfig& c) { c.model.moe.capacity_factor = -1.0; }},
    {"model.moe.balance_loss_coef", 1, [](RunConfig& c) { c.model.moe.balance_loss_coef = kNan; }},
    {"model.moe.z_loss_coef", 1, [](RunConfig& c) { c.model.moe.z_loss_coef = -0.1; }},
    {"model.moe.group_sequences", 1, [](RunConfig& c) { c.model.moe.group_sequences = 0; }},
    {"model = about", 1,
     [](RunConfig& c) { c.model.model_dim = c.model.heads = c.model.kv_heads = kMax - 1, c.model.head_dim = 2; }},
    {"train.steps", 1, [](RunConfig& c) { c.train.steps = 0; }},
    {"train.global_batch", 1, [](RunConfig& c) { c.train.global_batch = 0; }},
    {"train.global_batch", 1, [](RunConfig& c) { c.train.global_batch = 15; }},
    {"train.global_batch", 16, [](RunConfig&) {}},
    {"train.global_batch", kMax, [](RunConfig& c) { c.train.micro_batch = 1 << 20, c.train.sequence_length = 1; }},
    {"train.micro_batch", 1, [](RunConfig& c) { c.train.micro_batch = 0; }},
    {"train.micro_batch", 1, [](RunConfig& c) { c.model.moe.group_sequences = 4; }},
    {"train.micro_batch", 1, [](RunConfig& c) { c.train.sequence_length = kMax; }},
    {"train.sequence_length", 1, [](RunConfig& c) { c.train.sequence_length = 0; }},
    {"train.sequence_length", 1,
     [](RunConfig& c) { c.model.family = ModelFamily::kGpt2Moe, c.model.max_positions = 127; }},
    {"train.dtype", 1, [](RunConfig& c) { c.train.dtype = DType::kI32; }},
    {"train.optimizer.lr", 1, [](RunConfig& c) { c.train.optimizer.lr = kNan; }},
    {"train.optimizer.min_lr_ratio", 1, [](RunConfig& c) { c.train.optimizer.min_lr_ratio = 1.5; }},
    {"train.optimizer.warmup_steps", 1, [](RunConfig& c) { c.train.optimizer.warmup_steps = -1; }},
    {"train.optimizer.wsd_decay_fraction", 1, [](RunConfig& c) { c.train.optimizer.wsd_decay_fraction = -0.1; }},
    {"train.optimizer.beta1", 1, [](RunConfig& c) { c.train.optimizer.beta1 = 1.0; }},
    {"train.optimizer.beta2", 1, [](RunConfig& c) { c.train.optimizer.beta2 = kNan; }},
    {"train.optimizer.eps", 1, [](RunConfig& c) { c.train.optimizer.eps = 0.0; }},
    {"train.optimizer.weight_decay", 1, [](RunConfig& c) { c.train.optimizer.weight_decay = -0.1; }},
    {"train.optimizer.clip_norm", 1, [](RunConfig& c) { c.train.optimizer.clip_norm = -1.0; }},
    {"train.validate_every", 1, [](RunConfig& c) { c.train.validate_every = -1; }},
    {"train.validate_sequences", 1, [](RunConfig& c) { c.train.validate_sequences = -1; }},
    {"train.time_limit_s", 1, [](RunConfig& c) { c.train.time_limit_s = kInf; }},
    {"parallel.expert", 1, [](RunConfig& c) { c.parallel.expert = 0; }},
    {"parallel.expert", 1, [](RunConfig& c) { c.parallel.expert = 2; }},  // one rank
    {"parallel.expert", 2, [](RunConfig& c) { c.model.moe.experts = 7, c.parallel.expert = 2; }},
    {"parallel.expert_shard", 1, [](RunConfig& c) { c.parallel.expert_shard = 0; }},
    {"parallel.expert_shard", 2, [](RunConfig& c) { c.parallel.expert = c.parallel.expert_shard = 2; }},
    {"parallel.expert_shard", 3, [](RunConfig& c) { c.parallel.expert_shard = 3, c.train.global_batch = 12; }},
    {"model.moe.gate", 1, [](RunConfig& c) { c.model.moe.gate = "expert_choice"; }},
    {"model.moe.gate", 1, [](RunConfig& c) { c.model.moe.gate = "soft_moe"; }},
    {"model.moe.z_loss_coef", 1,
     [](RunConfig& c) {
       c.model.moe.gate = "soft_moe";
       c.model.moe.allow_noncausal = true;
       c.model.moe.z_loss_coef = 0.1;
     }},
    {"model.moe.gate = SOFT_MOE: no such gate; choose one of softmax_top_k, ", 1,
     [](RunConfig& c) { c.model.moe.gate = "SOFT_MOE"; }},
    {"model.moe.gate", 2, [](RunConfig& c) { c.model.moe.gate = "", share(c, 2, 1); }},
    {"model.moe.gate_options = slots_per_expert=0", 1,
     [](RunConfig& c) {
       c.model.moe.gate = "soft_moe";
       c.model.moe.allow_noncausal = true;
       c.model.moe.gate_options = {"slots_per_expert=0"};
     }},
    {"model.moe.gate_options = dimension=2.5", 1,
     [](RunConfig& c) { c.model.moe.gate = "xmoe", c.model.moe.gate_options = {"dimension=2.5"}; }},
    {"model.moe.gate_options = dimension=3", 1,
     [](RunConfig& c) {
       c.model.moe.gate = "xmoe", c.model.moe.gate_options = {"dimension=2", "temperature=1", "dimension=3"};
     }},
    {"model.moe.gate_options = temperature", 1,
     [](RunConfig& c) { c.model.moe.gate = "xmoe", c.model.moe.gate_options = {"temperature"}; }},
    {"model.moe.gate_options = slots=1: no such option; gate softmax_top_k has none", 1,
     [](RunConfig& c) { c.model.moe.gate_options = {"slots=1"}; }},
    {"parallel.intra_node_ctas", 1, [](RunConfig& c) { c.parallel.intra_node_ctas = -1; }},
    {"parallel.inter_node_ctas", 1, [](RunConfig& c) { c.parallel.inter_node_ctas = 65; }},
    {"parallel.sequence_heads", 1, [](RunConfig& c) { c.parallel.sequence_heads = 0; }},
    {"parallel.sequence_ring", 1, [](RunConfig& c) { c.parallel.sequence_ring = -1; }},
    {"parallel.sequence_heads", 3, [](RunConfig& c) { share(c, 3, 1), c.train.sequence_length = 120; }},
    {"parallel.sequence_heads", 3, [](RunConfig& c) { share(c, 2, 1); }},
    {"parallel.sequence_ring", 6, [](RunConfig& c) { share(c, 2, 2); }},
    {"train.sequence_length", 4, [](RunConfig& c) { share(c, 2, 2), c.train.sequence_length = 124; }},
    {"train.global_batch", 4, [](RunConfig& c) { share(c, 1, 2), c.train.global_batch = 6; }},
    {"schedule.forward_chunks", 4, [](RunConfig& c) { share(c, 2, 2), c.schedule.forward_chunks = 65; }},
    {"data.train", 1,
     [](RunConfig& c) {
       c.data.train = {"a.bin", ""};
     }},
    {"data.val", 1, [](RunConfig& c) { c.data.val = {""}; }},
    {"data.end_of_text", 1, [](RunConfig& c) { c.data.end_of_text = -2; }},
    {"data.end_of_text", 1, [](RunConfig& c) { c.data.end_of_text = 257; }},
    {"checkpoint.every", 1, [](RunConfig& c) { c.checkpoint.every = -1; }},
    {"checkpoint.keep", 1, [](RunConfig& c) { c.checkpoint.keep = -1; }},
    {"metrics.router_every", 1, [](RunConfig& c) { c.metrics.router_every = -1; }},
    {"schedule.forward_chunks", 1, [](RunConfig& c) { c.schedule.forward_chunks = 0; }},
    {"schedule.backward_chunks", 1, [](RunConfig& c) { c.schedule.backward_chunks = 0; }},
    {"schedule.weight_grad_pieces", 1, [](RunConfig& c) { c.schedule.weight_grad_pieces = -1; }},
    {"schedule.gradient_slices", 1, [](RunConfig& c) { c.schedule.gradient_slices = 0; }},
};

TEST_CASE("the default config can run on 1, 2, 4 and 8 ranks") {
  for (int ranks : {1, 2, 4, 8}) CHECK(validate(RunConfig{}, ranks).empty());
}

TEST_CASE("ranks can share sequences") {
  RunConfig config;
  share(config, 2, 2);
  for (const int ranks : {4, 8, 16}) CHECK(validate(config, ranks).empty());
  config.model.moe.gate = "soft_moe";
  config.model.moe.allow_noncausal = true;
  CHECK(validate(config, 4).empty());
  config.model.moe.balance_scope = BalanceScope::kRoutingGroup;
  config.model.moe.balance_loss_coef = 0.0;
  CHECK(validate(config, 4).empty());
}

TEST_CASE("each wrong value is one problem that begins with its path") {
  for (std::size_t i = 0; i < kWrong.size(); ++i) {
    RunConfig config;
    kWrong[i].change(config);
    const auto problems = validate(config, kWrong[i].world_size);
    INFO("case " << i << ", " << kWrong[i].path);
    REQUIRE(problems.size() == 1);
    CHECK(problems.front().starts_with(kWrong[i].path));
    CHECK(problems.front().find(": ") != std::string::npos);
    CHECK(problems.front().find('\n') == std::string::npos);
  }
}

TEST_CASE("all problems are named at once") {
  RunConfig config;
  config.model.moe.top_k = 9;
  config.train.dtype = DType::kI32;
  config.parallel.expert = 3;  // divides neither the experts nor the ranks
  config.checkpoint.every = -1;
  CHECK(validate(config, 4).size() == 5);
}

TEST_CASE("sizes at the limits of their types are judged without overflow") {
  RunConfig config;
  for (int* field :
       {&config.model.layers, &config.model.model_dim, &config.model.expert_hidden_dim, &config.model.heads,
        &config.model.kv_heads, &config.model.head_dim, &config.model.vocab_size, &config.model.moe.experts,
        &config.model.moe.top_k, &config.train.global_batch, &config.train.micro_batch, &config.train.sequence_length,
        &config.model.dense_hidden_dim, &config.model.moe.group_sequences, &config.parallel.sequence_heads,
        &config.parallel.sequence_ring})
    *field = kMax;
  CHECK(!validate(config, kMax).empty());
  for (int* field : {&config.model.model_dim, &config.model.heads, &config.model.kv_heads, &config.train.micro_batch,
                     &config.parallel.expert, &config.parallel.sequence_heads, &config.parallel.sequence_ring,
                     &config.model.moe.experts, &config.model.moe.group_sequences})
    *field = std::numeric_limits<int>::min();
  CHECK(!validate(config, 1).empty());
}

TEST_CASE("a run has at least one rank") { CHECK_THROWS_AS(validate(RunConfig{}, 0), Error); }

}  // namespace
}  // namespace weft::parallel
