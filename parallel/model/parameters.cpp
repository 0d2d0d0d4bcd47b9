#include "parallel/model/parameters.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "parallel/moe/gate_registry.h"

namespace weft::parallel {
namespace {

/// Builds lists of specs under a common name prefix.
class SpecList {
 public:
  SpecList(std::string prefix, bool biases) : prefix_(std::move(prefix)), biases_(biases) {}

  void matrix(const std::string& name, std::int64_t rows, std::int64_t cols, Init init = Init::kNormal,
              ExpertCut cut = ExpertCut::kNone) {
    specs_.push_back({prefix_ + name + ".weight", rows, cols, false, true, init, cut});
  }
  void bias(const std::string& name, std::int64_t n, ExpertCut cut = ExpertCut::kNone) {
    if (biases_) specs_.push_back({prefix_ + name + ".bias", n, 1, true, false, Init::kZeros, cut});
  }
  void norm(const std::string& name, std::int64_t n) {
    specs_.push_back({prefix_ + name + ".weight", n, 1, true, false, Init::kOnes});
    bias(name, n);
  }
  [[nodiscard]] std::vector<ParameterSpec> take() { return std::move(specs_); }

 private:
  std::string prefix_;
  bool biases_;
  std::vector<ParameterSpec> specs_;
};

bool has_biases(const ModelConfig& config) { return config.family == ModelFamily::kGpt2Moe; }
bool is_gated(const ModelConfig& config) { return config.family == ModelFamily::kMixtral; }

/// A feed-forward network: gate and up lie next to each other, so that one GEMM makes both. The cuts count for experts.
void feed_forward(SpecList& list, const std::string& name, const ModelConfig& config, std::int64_t hidden) {
  if (is_gated(config)) list.matrix(name + "gate", hidden, config.model_dim, Init::kNormal, ExpertCut::kRows);
  list.matrix(name + "up", hidden, config.model_dim, Init::kNormal, ExpertCut::kRows);
  list.bias(name + "up", hidden, ExpertCut::kRows);
  list.matrix(name + "down", config.model_dim, hidden, Init::kScaledNormal, ExpertCut::kCols);
  list.bias(name + "down", config.model_dim, ExpertCut::kFirst);
}

std::vector<ParameterSpec> embedding_specs(const ModelConfig& config) {
  SpecList list("embed.", has_biases(config));
  list.matrix("tokens", config.vocab_size, config.model_dim);
  if (config.family == ModelFamily::kGpt2Moe) list.matrix("positions", config.max_positions, config.model_dim);
  return list.take();
}

std::vector<ParameterSpec> dense_layer_specs(const ModelConfig& config, int layer) {
  SpecList list(str("layers.", layer, "."), has_biases(config));
  const std::int64_t m = config.model_dim, d = config.head_width();
  list.norm("attention_norm", m);
  list.matrix("attention.q", config.heads * d, m);  // q, k and v lie next to each other: one GEMM
  list.matrix("attention.k", config.kv_heads * d, m);
  list.matrix("attention.v", config.kv_heads * d, m);
  list.bias("attention.q", config.heads * d);
  list.bias("attention.k", config.kv_heads * d);
  list.bias("attention.v", config.kv_heads * d);
  list.matrix("attention.o", m, config.heads * d, Init::kScaledNormal);
  list.bias("attention.o", m);
  list.norm("ffn_norm", m);
  if (!config.is_moe_layer(layer)) feed_forward(list, "ffn.", config, config.dense_width());
  std::vector<ParameterSpec> specs = list.take();
  if (!config.is_moe_layer(layer)) return specs;
  for (ParameterSpec& spec : gate_entry(config.moe.gate).parameters(config)) {
    spec.name = str("layers.", layer, ".", spec.name);
    specs.push_back(std::move(spec));
  }
  return specs;
}

std::vector<ParameterSpec> expert_specs(const ModelConfig& config, int layer, int first, int count) {
  std::vector<ParameterSpec> out;
  for (int e = first; e < first + count; ++e) {
    SpecList list(str("layers.", layer, ".moe.experts.", e, "."), has_biases(config));
    feed_forward(list, "", config, config.expert_hidden_dim);
    for (ParameterSpec& spec : list.take()) out.push_back(std::move(spec));
  }
  return out;
}

std::vector<ParameterSpec> head_specs(const ModelConfig& config) {
  SpecList list("", has_biases(config));
  list.norm("final_norm", config.model_dim);
  if (!config.tie_embeddings) list.matrix("lm_head", config.vocab_size, config.model_dim);
  return list.take();
}

constexpr std::int64_t kBucketAlignment = 64;  // elements: buckets start on a cache line

/// The part of `spec` on a rank; dense tensors are whole everywhere.
LocalParameter part_of(ParameterSpec spec, bool expert, const Mesh& mesh) {
  LocalParameter p;
  p.num_rows = spec.rows;
  p.num_cols = spec.cols;
  if (expert && spec.cut == ExpertCut::kRows) {
    p.num_rows = spec.rows / mesh.esp_size;
    p.first_row = p.num_rows * mesh.esp_rank();
  } else if (expert && spec.cut == ExpertCut::kCols) {
    p.num_cols = spec.cols / mesh.esp_size;
    p.first_col = p.num_cols * mesh.esp_rank();
  } else if (expert && spec.cut == ExpertCut::kFirst && mesh.esp_rank() != 0) {
    p.num_rows = 0;
  }
  p.spec = std::move(spec);
  return p;
}

}  // namespace

std::int64_t Bucket::owner_begin(int rank) const {
  const std::int64_t atoms = (count + kAtom - 1) / kAtom;
  return std::min(count, atoms * rank / num_replicas * kAtom);
}

std::int64_t Bucket::owner_cut(int rank, double fraction) const {
  const std::int64_t begin = owner_begin(rank), end = owner_begin(rank + 1);
  const std::int64_t atoms = (end - begin + kAtom - 1) / kAtom;
  return std::min(end, begin + static_cast<std::int64_t>(std::llround(static_cast<double>(atoms) * fraction)) * kAtom);
}

std::vector<ElementRun> LocalParameter::runs(std::int64_t begin, std::int64_t n) const {
  if (num_cols == spec.cols) return {{first_row * spec.cols + begin, begin, n}};
  std::vector<ElementRun> out;
  for (const std::int64_t end = begin + n; begin < end;) {
    const std::int64_t row = begin / num_cols, col = begin % num_cols, count = std::min(end - begin, num_cols - col);
    out.push_back({(first_row + row) * spec.cols + first_col + col, begin, count});
    begin += count;
  }
  return out;
}

std::vector<ParameterSpec> global_parameters(const ModelConfig& config) {
  std::vector<ParameterSpec> all = embedding_specs(config);
  const auto append = [&](std::vector<ParameterSpec> specs) {
    all.insert(all.end(), std::make_move_iterator(specs.begin()), std::make_move_iterator(specs.end()));
  };
  for (int layer = 0; layer < config.layers; ++layer) {
    append(dense_layer_specs(config, layer));
    if (config.is_moe_layer(layer)) append(expert_specs(config, layer, 0, config.moe.experts));
  }
  append(head_specs(config));
  return all;
}

ParameterTable::ParameterTable(const ModelConfig& config, const Mesh& mesh) {
  WEFT_CHECK(config.expert_hidden_dim % mesh.esp_size == 0, "model.expert_hidden_dim is ", config.expert_hidden_dim,
             ", parallel.expert_shard ", mesh.esp_size);
  const auto dense = [&](Bucket::Kind kind, int layer) {
    return Bucket{kind, layer, 0, 0, mesh.world_size, mesh.world_rank};
  };
  add(embedding_specs(config), dense(Bucket::Kind::kEmbedding, -1), mesh);
  for (int layer = 0; layer < config.layers; ++layer) {
    dense_bucket_.push_back(static_cast<int>(buckets_.size()));
    add(dense_layer_specs(config, layer), dense(Bucket::Kind::kDenseLayer, layer), mesh);
    expert_bucket_.push_back(-1);
    if (!config.is_moe_layer(layer)) continue;
    expert_bucket_.back() = static_cast<int>(buckets_.size());
    const int experts = config.moe.experts;
    add(expert_specs(config, layer, mesh.first_local_expert(experts), mesh.num_local_experts(experts)),
        Bucket{Bucket::Kind::kExperts, layer, 0, 0, mesh.edp_size(), mesh.edp_rank()}, mesh);
  }
  add(head_specs(config), dense(Bucket::Kind::kHead, -1), mesh);
}

void ParameterTable::add(std::vector<ParameterSpec> specs, Bucket bucket, const Mesh& mesh) {
  count_ = (count_ + kBucketAlignment - 1) / kBucketAlignment * kBucketAlignment;
  bucket.offset = count_;
  for (ParameterSpec& spec : specs) {
    LocalParameter part = part_of(std::move(spec), bucket.kind == Bucket::Kind::kExperts, mesh);
    part.offset = count_;
    count_ += part.count();
    if (part.count() > 0) parameters_.push_back(std::move(part));
  }
  bucket.count = count_ - bucket.offset;
  buckets_.push_back(bucket);
}

std::int64_t ParameterTable::owned_count() const {
  std::int64_t n = 0;
  for (const Bucket& b : buckets_) n += b.owner_count(b.replica_rank);
  return n;
}

std::int64_t ParameterTable::find(const std::string& name) const {
  for (const LocalParameter& p : parameters_)
    if (p.spec.name == name) return p.offset;
  return -1;
}

ParameterCount count_parameters(const ModelConfig& config) {
  ParameterCount out;
  for (const ParameterSpec& spec : global_parameters(config)) {
    out.total += spec.count();
    const bool expert = spec.name.find(".experts.") != std::string::npos;
    out.active += expert ? 0 : spec.count();
  }
  const std::int64_t experts_total = out.total - out.active;
  out.active += experts_total / std::max(1, config.moe.experts) * config.moe.top_k;
  return out;
}

double flops_per_token(const ModelConfig& config, std::int64_t sequence_length) {
  // Share of the experts that a token pays for.
  const double active_experts = gate_rows_per_token(config, sequence_length) / config.moe.experts;
  double active_matrices = 0.0;
  for (const ParameterSpec& spec : global_parameters(config)) {
    if (spec.is_vector || spec.name.starts_with("embed.")) continue;
    const bool expert = spec.name.find(".experts.") != std::string::npos;
    active_matrices += static_cast<double>(spec.count()) * (expert ? active_experts : 1.0);
  }
  if (config.tie_embeddings) active_matrices += double(config.vocab_size) * config.model_dim;
  const double attention =
      12.0 * config.layers * config.heads * config.head_width() * (static_cast<double>(sequence_length) + 1.0) / 2.0;
  return 6.0 * active_matrices + attention;
}

}  // namespace weft::parallel
