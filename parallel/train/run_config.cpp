#include "parallel/train/run_config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "comm/for_device.h"
#include "core/error.h"
#include "parallel/moe/gate_registry.h"

namespace weft::parallel {
namespace {

// Collects problems. Each check names the field's path, its value, and what to change.
class Problems {
 public:
  template <class T, class... Text>
  void add(const char* path, const T& value, const Text&... text) {
    found_.push_back(str(path, " = ", value, ": ", text...));
  }
  void add(const std::vector<std::string>& problems) { found_.insert(found_.end(), problems.begin(), problems.end()); }
  void positive(const char* path, int value) {
    if (value < 1) add(path, value, "must be at least 1");
  }
  void not_negative(const char* path, int value) {
    if (value < 0) add(path, value, "must not be negative");
  }
  void in_range(const char* path, double value, double low, double high, const char* allowed) {
    if (!(value >= low && value <= high)) add(path, value, "must be ", allowed);  // a NaN is in no range
  }
  void not_negative(const char* path, double value) {
    in_range(path, value, 0.0, std::numeric_limits<double>::max(), "finite and not negative");
  }
  void positive(const char* path, double value) {
    in_range(path, value, std::numeric_limits<double>::min(), std::numeric_limits<double>::max(), "finite and above 0");
  }
  std::vector<std::string> take() { return std::move(found_); }

 private:
  std::vector<std::string> found_;
};

constexpr double kMaxParameters = 1e14;  // beyond any machine; keeps all products of sizes inside 64 bits

void check_attention(const ModelConfig& m, Problems& problems) {
  if (m.heads < 1 || m.kv_heads < 1 || m.model_dim < 1 || m.head_dim < 0) return;  // said elsewhere
  if (m.heads % m.kv_heads != 0) problems.add("model.kv_heads", m.kv_heads, "must divide model.heads = ", m.heads);
  if (m.head_dim == 0 && m.model_dim % m.heads != 0)
    return problems.add("model.heads", m.heads, "must divide model.model_dim = ", m.model_dim,
                        ", or set model.head_dim");
  if (m.family == ModelFamily::kMixtral && m.head_width() % 2 != 0)
    problems.add("model.head_dim", m.head_width(),
                 "must be even, because rotary positions turn pairs; change model.head_dim, heads or model_dim");
}

void check_size(const ModelConfig& m, Problems& problems) {
  const auto widest = [](double a, double b) { return std::max(a, b); };
  const double width = m.heads > 0 ? widest(m.model_dim, static_cast<double>(m.heads) * m.head_width()) : m.model_dim;
  const double dense = m.dense_hidden_dim > 0 ? m.dense_hidden_dim : 4.0 * m.model_dim;  // as dense_width(), unbounded
  const double feed_forward = widest(static_cast<double>(m.moe.experts) * m.expert_hidden_dim, dense);
  const double parameters = width * (2.0 * m.vocab_size + m.layers * (4.0 * width + 3.0 * feed_forward));
  if (parameters > kMaxParameters)
    problems.add("model", str("about ", parameters, " parameters"), "more than ", kMaxParameters,
                 "; make model_dim, expert_hidden_dim, layers or experts smaller");
}

void check_model(const ModelConfig& m, Problems& problems) {
  problems.positive("model.layers", m.layers);
  problems.positive("model.model_dim", m.model_dim);
  problems.positive("model.expert_hidden_dim", m.expert_hidden_dim);
  problems.not_negative("model.dense_hidden_dim", m.dense_hidden_dim);
  problems.positive("model.heads", m.heads);
  problems.positive("model.kv_heads", m.kv_heads);
  problems.not_negative("model.head_dim", m.head_dim);
  problems.positive("model.vocab_size", m.vocab_size);
  if (m.family == ModelFamily::kGpt2Moe) problems.positive("model.max_positions", m.max_positions);
  problems.positive("model.rope_theta", m.rope_theta);
  problems.positive("model.norm_eps", m.norm_eps);
  problems.not_negative("model.init_std", m.init_std);
  const bool known = m.layer_pattern.find_first_not_of("MD") == std::string::npos;
  if (m.layer_pattern.empty() || !known)
    problems.add("model.layer_pattern", "\"" + m.layer_pattern + "\"", "must be one or more of M (MoE) and D (dense)");
  check_attention(m, problems);
  check_size(m, problems);
}

void check_moe(const MoeConfig& m, Problems& problems) {
  problems.positive("model.moe.experts", m.experts);
  problems.positive("model.moe.top_k", m.top_k);
  if (m.experts >= 1 && m.top_k > m.experts)
    problems.add("model.moe.top_k", m.top_k, "must not exceed model.moe.experts = ", m.experts);
  problems.not_negative("model.moe.capacity_factor", m.capacity_factor);
  problems.not_negative("model.moe.balance_loss_coef", m.balance_loss_coef);
  problems.not_negative("model.moe.z_loss_coef", m.z_loss_coef);
  problems.positive("model.moe.group_sequences", m.group_sequences);
}

// What the gate says of itself decides what fits it.
void check_gate(const ModelConfig& m, Problems& problems) {
  const std::vector<std::string> found = gate_problems(m);
  problems.add(found);
  if (!found.empty()) return;
  const GateNeeds needs = gate_needs(m);
  if (needs.later_tokens && !m.moe.allow_noncausal)
    problems.add("model.moe.gate", m.moe.gate,
                 "looks at later tokens, so the loss of a decoder says little and it cannot generate; choose another "
                 "gate, or set model.moe.allow_noncausal to true");
}

void check_optimizer(const OptimizerConfig& o, Problems& problems) {
  constexpr double kBelowOne = 1.0 - std::numeric_limits<double>::epsilon() / 2;
  problems.not_negative("train.optimizer.lr", o.lr);
  problems.in_range("train.optimizer.min_lr_ratio", o.min_lr_ratio, 0.0, 1.0, "in [0, 1]");
  problems.not_negative("train.optimizer.warmup_steps", o.warmup_steps);
  problems.in_range("train.optimizer.wsd_decay_fraction", o.wsd_decay_fraction, 0.0, 1.0, "in [0, 1]");
  problems.in_range("train.optimizer.beta1", o.beta1, 0.0, kBelowOne, "in [0, 1)");
  problems.in_range("train.optimizer.beta2", o.beta2, 0.0, kBelowOne, "in [0, 1)");
  problems.positive("train.optimizer.eps", o.eps);
  problems.not_negative("train.optimizer.weight_decay", o.weight_decay);
  problems.not_negative("train.optimizer.clip_norm", o.clip_norm);
}

void check_train(const RunConfig& config, Problems& problems) {
  const TrainConfig& t = config.train;
  problems.positive("train.steps", t.steps);
  problems.positive("train.global_batch", t.global_batch);
  problems.positive("train.micro_batch", t.micro_batch);
  problems.positive("train.sequence_length", t.sequence_length);
  if (t.dtype != DType::kF32 && t.dtype != DType::kF64 && t.dtype != DType::kBF16)
    problems.add("train.dtype", to_string(t.dtype), "must be F32, F64 or BF16");
  check_optimizer(t.optimizer, problems);
  problems.not_negative("train.validate_every", t.validate_every);
  problems.not_negative("train.validate_sequences", t.validate_sequences);
  problems.not_negative("train.time_limit_s", t.time_limit_s);

  const ModelConfig& m = config.model;
  if (m.family == ModelFamily::kGpt2Moe && m.max_positions >= 1 && t.sequence_length > m.max_positions)
    problems.add("train.sequence_length", t.sequence_length, "must not exceed model.max_positions = ", m.max_positions);
  if (m.moe.group_sequences >= 1 && t.micro_batch >= 1 && t.micro_batch % m.moe.group_sequences != 0)
    problems.add("train.micro_batch", t.micro_batch,
                 "must be a multiple of model.moe.group_sequences = ", m.moe.group_sequences);
  const double choices = static_cast<double>(t.micro_batch) * t.sequence_length * m.moe.top_k;
  if (choices > std::numeric_limits<std::int32_t>::max())
    problems.add("train.micro_batch", t.micro_batch, "micro_batch * sequence_length * top_k = ", choices,
                 " is more than fits 32 bits; make one of them smaller");
}

/// Returns the ranks that share a sequence, 0 when they cannot.
std::int64_t check_sequence(const RunConfig& config, int world_size, Problems& problems) {
  const ParallelConfig& p = config.parallel;
  problems.positive("parallel.sequence_heads", p.sequence_heads);
  problems.positive("parallel.sequence_ring", p.sequence_ring);
  if (p.sequence_heads < 1 || p.sequence_ring < 1) return 0;
  const std::int64_t ranks = std::int64_t{p.sequence_heads} * p.sequence_ring;
  if (ranks == 1) return 1;
  const char* path = p.sequence_ring > 1 ? "parallel.sequence_ring" : "parallel.sequence_heads";
  const int value = p.sequence_ring > 1 ? p.sequence_ring : p.sequence_heads;
  const int heads = config.model.heads;
  if (heads >= 1 && heads % p.sequence_heads != 0)
    problems.add("parallel.sequence_heads", p.sequence_heads, "must divide model.heads = ", heads);
  const int length = config.train.sequence_length;
  if (length >= 1 && length % (2 * ranks) != 0)
    problems.add("train.sequence_length", length,
                 "must be a multiple of 2 * sequence_ring * sequence_heads = ", 2 * ranks,
                 ", so that each rank holds as much of a sequence as any other");
  if (world_size % ranks == 0) return ranks;
  problems.add(path, value, "sequence_heads * sequence_ring = ", ranks, " must divide the number of ranks, ",
               world_size, "; start a multiple of ", ranks, " ranks");
  return 0;
}

void check_layout(const RunConfig& config, int world_size, Problems& problems) {
  const ParallelConfig& p = config.parallel;
  const TrainConfig& t = config.train;
  problems.positive("parallel.expert", p.expert);
  problems.positive("parallel.expert_shard", p.expert_shard);
  constexpr const char* kBudget = "in [0, 64]";
  problems.in_range("parallel.intra_node_ctas", p.intra_node_ctas, 0, comm::kMostCtas, kBudget);
  problems.in_range("parallel.inter_node_ctas", p.inter_node_ctas, 0, comm::kMostCtas, kBudget);
  if (p.expert_shard >= 1 && config.model.expert_hidden_dim >= 1 &&
      config.model.expert_hidden_dim % p.expert_shard != 0)
    problems.add("parallel.expert_shard", p.expert_shard,
                 "must divide model.expert_hidden_dim = ", config.model.expert_hidden_dim);
  if (p.expert >= 1 && config.model.moe.experts >= 1 && config.model.moe.experts % p.expert != 0)
    problems.add("parallel.expert", p.expert, "must divide model.moe.experts = ", config.model.moe.experts);
  const std::int64_t set_ranks = std::int64_t{p.expert} * p.expert_shard;  // that hold one set of experts
  if (p.expert >= 1 && p.expert_shard == 1 && world_size % p.expert != 0)
    problems.add("parallel.expert", p.expert, "must divide the number of ranks, ", world_size, "; start a multiple of ",
                 p.expert, " ranks");
  if (p.expert >= 1 && p.expert_shard > 1 && world_size % set_ranks != 0)
    problems.add("parallel.expert_shard", p.expert_shard, "expert * expert_shard = ", set_ranks,
                 " must divide the number of ranks, ", world_size, "; start a multiple of ", set_ranks, " ranks");
  const std::int64_t sequence_ranks = check_sequence(config, world_size, problems);
  if (t.global_batch < 1 || t.micro_batch < 1 || sequence_ranks < 1) return;
  const std::int64_t groups = world_size / sequence_ranks;  // DP
  const std::int64_t at_once = groups * t.micro_batch;
  const std::string what = sequence_ranks == 1 ? "ranks" : str("ranks / ", sequence_ranks, " sequence ranks");
  if (t.global_batch % at_once != 0)
    problems.add("train.global_batch", t.global_batch, "must be a multiple of ", what,
                 " * train.micro_batch = ", groups, " * ", t.micro_batch, " = ", at_once);
}

// A step's graph is built before it runs: a figure that asks for millions of tasks is a slip of the keyboard.
void check_tasks(const RunConfig& config, int world_size, Problems& problems) {
  constexpr double kMaxTasks = 5e6;
  const TrainConfig& t = config.train;
  const ScheduleConfig& s = config.schedule;
  if (t.micro_batch < 1 || t.global_batch < 1 || t.sequence_length < 1 || config.model.layers < 1 ||
      s.forward_chunks < 1 || s.backward_chunks < 1 || s.gradient_slices < 1)
    return;  // said elsewhere
  const double sequence_ranks = std::max(1.0, static_cast<double>(config.parallel.sequence_heads)) *
                                std::max(1.0, static_cast<double>(config.parallel.sequence_ring));
  const double rows = static_cast<double>(t.micro_batch) * t.sequence_length / sequence_ranks;
  for (const auto& [path, chunks] : {std::pair{"schedule.forward_chunks", s.forward_chunks},
                                     std::pair{"schedule.backward_chunks", s.backward_chunks}})
    if (chunks > rows) problems.add(path, chunks, "is more than the ", rows, " tokens of a micro-batch");
  const double groups = std::max(1.0, world_size / sequence_ranks);
  const double micro_batches = static_cast<double>(t.global_batch) / (groups * t.micro_batch);
  const double chunk_tasks = 6.0 * (static_cast<double>(s.forward_chunks) + s.backward_chunks);
  const double sequence_tasks = sequence_ranks == 1.0 ? 0.0 : 12.0 + 6.0 * config.parallel.sequence_ring;
  const double tasks =
      config.model.layers * (micro_batches * (20.0 + chunk_tasks + sequence_tasks) + 2.0 * s.gradient_slices);
  if (tasks > kMaxTasks)
    problems.add(
        "a step", str("about ", tasks, " tasks"), "more than ", kMaxTasks,
        "; use fewer layers, micro-batches (a smaller train.global_batch or a larger train.micro_batch), chunks or "
        "gradient_slices");
}

bool may_pad(const RunConfig& config) {
  const ModelConfig& m = config.model;
  const ParallelConfig& p = config.parallel;
  return m.layer_pattern.find('M') != std::string::npos && m.moe.capacity_factor > 0.0 &&
         p.sequence_heads * p.sequence_ring == 1 && gate_problems(m).empty() &&
         gate_needs(m).form == RoutingForm::kTokenList;
}

void check_rest(const RunConfig& config, Problems& problems) {
  const std::string& name = config.name;
  const bool printable = std::all_of(name.begin(), name.end(), [](unsigned char c) { return c > ' ' && c != 127; });
  if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos || !printable)
    problems.add("name", "\"" + name + "\"", "names a folder: no spaces, no '/', no '.' at the start, not empty");
  for (const auto* files : {&config.data.train, &config.data.val})
    if (std::find(files->begin(), files->end(), "") != files->end())
      problems.add(files == &config.data.train ? "data.train" : "data.val", "\"\"", "an empty file name; remove it");
  if (config.data.end_of_text < -1 ||
      (config.model.vocab_size >= 1 && config.data.end_of_text >= config.model.vocab_size))
    problems.add("data.end_of_text", config.data.end_of_text,
                 "must be a token below model.vocab_size = ", config.model.vocab_size, ", or -1 for none");
  problems.not_negative("checkpoint.every", config.checkpoint.every);
  problems.not_negative("checkpoint.keep", config.checkpoint.keep);
  problems.not_negative("metrics.router_every", config.metrics.router_every);
  problems.not_negative("schedule.memory_limit_mib", config.schedule.memory_limit_mib);
  problems.positive("schedule.forward_chunks", config.schedule.forward_chunks);
  problems.positive("schedule.backward_chunks", config.schedule.backward_chunks);
  problems.not_negative("schedule.weight_grad_pieces", config.schedule.weight_grad_pieces);
  problems.positive("schedule.gradient_slices", config.schedule.gradient_slices);
  problems.not_negative("schedule.replan", config.schedule.replan);
  if (config.schedule.pad_capacity == CapacityPadding::kAlways && !may_pad(config))
    problems.add(
        "schedule.pad_capacity", "ALWAYS",
        "needs a gate whose tokens choose experts, model.moe.capacity_factor above 0, and sequences that no ranks "
        "share");
  if (!(config.schedule.profile_min_r_squared <= 1.0))
    problems.add("schedule.profile_min_r_squared", config.schedule.profile_min_r_squared, "is at most 1");
}

}  // namespace

std::vector<std::string> validate(const RunConfig& config, int world_size) {
  WEFT_CHECK(world_size >= 1, "validate: world_size is ", world_size);
  Problems problems;
  check_model(config.model, problems);
  check_moe(config.model.moe, problems);
  check_gate(config.model, problems);
  check_train(config, problems);
  check_layout(config, world_size, problems);
  check_tasks(config, world_size, problems);
  check_rest(config, problems);
  return problems.take();
}

}  // namespace weft::parallel
