// parallel/model/parameters.h - every parameter of a model by name, where this rank keeps it, and who owns which part.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "parallel/mesh.h"
#include "parallel/model/model_config.h"

namespace weft::parallel {

enum class Init : std::uint8_t { kNormal, kScaledNormal, kOnes, kZeros };  ///< kScaledNormal: std / sqrt(2 * layers).

/// How an expert's tensor is shared out over the ESP ranks, which split its hidden width H. kRows: equal blocks of rows
/// (gate and up). kCols: equal blocks of columns (down). kFirst: ESP rank 0 alone holds it, so that what it adds is
/// added once (the bias behind down). Source: Megatron-LM's column and row cut, arXiv:1909.08053, section 3.
enum class ExpertCut : std::uint8_t { kNone, kRows, kCols, kFirst };

/// One tensor of the model. Names are global: "layers.3.moe.experts.5.up.weight" is the same expert in every layout.
struct ParameterSpec {
  std::string name;
  std::int64_t rows = 0;  ///< Output width, or the length of a vector.
  std::int64_t cols = 1;  ///< Input width; 1 for a vector.
  bool is_vector = false;
  bool decay = true;  ///< Takes weight decay: matrices do, norms and biases do not.
  Init init = Init::kNormal;
  ExpertCut cut = ExpertCut::kNone;
  [[nodiscard]] std::int64_t count() const { return rows * cols; }
  [[nodiscard]] std::vector<std::int64_t> shape() const {
    return is_vector ? std::vector<std::int64_t>{rows} : std::vector<std::int64_t>{rows, cols};
  }
};

/// Elements that follow one another both in a tensor and in this rank's part of it.
struct ElementRun {
  std::int64_t tensor_begin = 0;  ///< In the whole tensor, row-major.
  std::int64_t local_begin = 0;   ///< In the rank's part.
  std::int64_t count = 0;
};

/// The part of a tensor that this rank holds, rows and columns [first, first + num), and where it lies in the rank's
/// flat arrays, row-major.
struct LocalParameter {
  ParameterSpec spec;  ///< Of the whole tensor.
  std::int64_t offset = 0;
  std::int64_t first_row = 0, num_rows = 0;
  std::int64_t first_col = 0, num_cols = 0;
  [[nodiscard]] std::int64_t count() const { return num_rows * num_cols; }
  /// Local elements [begin, begin + count) as runs of the tensor's elements: one, unless columns are cut.
  [[nodiscard]] std::vector<ElementRun> runs(std::int64_t begin, std::int64_t count) const;
};

/// Parameters whose gradients are reduced together: the embedding, the dense part of a layer, the local experts of a
/// layer, the head. Contiguous in the flat arrays.
struct Bucket {
  enum class Kind : std::uint8_t { kEmbedding, kDenseLayer, kExperts, kHead };
  Kind kind = Kind::kDenseLayer;
  int layer = -1;
  std::int64_t offset = 0;  ///< Of the bucket in the flat arrays.
  std::int64_t count = 0;
  int num_replicas = 1;  ///< Ranks that hold the same elements: all for dense ones, EDP for experts.
  int replica_rank = 0;  ///< This rank among them.

  /// Elements [first, last) of the bucket that `rank` of the replicas owns for good: it keeps their optimizer state,
  /// counts them in the gradient norm and saves them. Cut at fixed atoms of kAtom elements.
  [[nodiscard]] std::int64_t owner_begin(int rank) const;
  [[nodiscard]] std::int64_t owner_count(int rank) const { return owner_begin(rank + 1) - owner_begin(rank); }
  /// Where in the bucket the first `fraction` of what `rank` owns ends: again whole atoms; the end for 1.
  [[nodiscard]] std::int64_t owner_cut(int rank, double fraction) const;
  static constexpr std::int64_t kAtom = 256;
};

/// All parameters of `config` in global order, experts of every rank included: what a checkpoint must hold.
[[nodiscard]] std::vector<ParameterSpec> global_parameters(const ModelConfig& config);

/// The parameters of one rank. Pure arithmetic: no memory.
class ParameterTable {
 public:
  ParameterTable(const ModelConfig& config, const Mesh& mesh);

  [[nodiscard]] std::span<const LocalParameter> parameters() const noexcept { return parameters_; }
  [[nodiscard]] std::span<const Bucket> buckets() const noexcept { return buckets_; }
  [[nodiscard]] std::int64_t count() const noexcept { return count_; }  ///< Elements of the flat arrays.
  /// Elements this rank owns (its optimizer state under ZeRO), over all buckets.
  [[nodiscard]] std::int64_t owned_count() const;
  [[nodiscard]] int embedding_bucket() const noexcept { return 0; }
  [[nodiscard]] int dense_bucket(int layer) const { return dense_bucket_[static_cast<std::size_t>(layer)]; }
  [[nodiscard]] int expert_bucket(int layer) const {
    return expert_bucket_[static_cast<std::size_t>(layer)];
  }  ///< -1: none.
  [[nodiscard]] int head_bucket() const noexcept { return static_cast<int>(buckets_.size()) - 1; }
  /// Offset of a local parameter in the flat arrays; -1 when this rank or model has none of that name.
  [[nodiscard]] std::int64_t find(const std::string& name) const;

 private:
  void add(std::vector<ParameterSpec> specs, Bucket bucket, const Mesh& mesh);

  std::vector<LocalParameter> parameters_;  // sorted by offset
  std::vector<Bucket> buckets_;
  std::vector<int> dense_bucket_, expert_bucket_;
  std::int64_t count_ = 0;
};

/// Elements of the whole model, and of what one token passes through (top-K experts of every MoE layer).
struct ParameterCount {
  std::int64_t total = 0;
  std::int64_t active = 0;
};
[[nodiscard]] ParameterCount count_parameters(const ModelConfig& config);

/// Model FLOPs of one token, forward and backward, of the sequence's average: 6 per active matrix parameter, plus
/// attention's 12 * heads * head_dim * (S + 1) / 2 per layer (scores and values over the causal half, 3x for backward).
/// Embedding look-ups are free; the output projection counts. Source: PaLM (arXiv:2204.02311), appendix B, with the
/// causal half counted once.
[[nodiscard]] double flops_per_token(const ModelConfig& config, std::int64_t sequence_length);

}  // namespace weft::parallel
