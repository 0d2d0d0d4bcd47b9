// parallel/data/batch.h - micro-batches, and which samples each rank takes at each step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/data/sample_order.h"
#include "parallel/data/token_dataset.h"

namespace weft::parallel {

/// B sequences of S tokens, row-major [B, S]. B = 0 is legal: a rank without a sequence still takes part.
struct Batch {
  std::int64_t num_sequences = 0;     ///< B
  std::int64_t sequence_length = 0;   ///< S
  std::vector<std::int32_t> tokens;   ///< [B, S]
  std::vector<std::int32_t> targets;  ///< [B, S], the token after each; kIgnoreTarget (kernels/cross_entropy.h): none.
  std::vector<std::int32_t> positions;   ///< [B, S], from 0 at the start of each segment.
  std::vector<std::int32_t> segments;    ///< [B, S], runs of one id that see each other, unique within the batch.
  std::vector<std::int64_t> sample_ids;  ///< [B], place in the training's sample order: the key of a sequence's noise.

  [[nodiscard]] std::int64_t num_tokens() const noexcept { return num_sequences * sequence_length; }
  friend bool operator==(const Batch&, const Batch&) = default;
};

/// How documents that are packed into one sequence see one another.
/// kYes: a sequence is one segment. kNo: each document in it is one; and a target that starts a document without being
/// the end-of-text token is ignored, as nothing the model sees announces it. (End-of-text itself is a target like any
/// other.)
enum class AttendAcrossDocuments { kNo, kYes };

/// The sequences `samples` of `data`, in this order, with these ids (as many). Throws as TokenDataset::read.
[[nodiscard]] Batch make_batch(const TokenDataset& data, std::span<const std::int64_t> samples,
                               std::span<const std::int64_t> sample_ids, AttendAcrossDocuments attend);

/// Targets that are not ignored: their part of the step's divisor of loss and gradient.
[[nodiscard]] std::int64_t count_valid_targets(std::span<const std::int32_t> targets);

/// How the global batch of a step is laid over data-parallel ranks and micro-batches.
struct BatchLayout {
  std::int64_t global_batch = 0;  ///< G, sequences of one step over all ranks.
  std::int64_t micro_batch = 0;   ///< b, sequences per rank and micro-batch.
  int dp_size = 1;                ///< D
  int dp_rank = 0;                ///< d, in [0, D).

  /// Micro-batches of a step. Throws Error{kInvalidArgument} unless G is a positive multiple of D * b.
  [[nodiscard]] std::int64_t num_micro_batches() const;
  /// The place in the sample order of the first of the b consecutive sequences of micro-batch m of this rank at `step`
  /// (from 0): step * G + (d * num_micro_batches + m) * b. Each rank has one unbroken run; over ranks and micro-batches
  /// each place of the step comes once, so that the step's set of samples does not depend on the layout.
  [[nodiscard]] std::int64_t first_place(std::int64_t step, std::int64_t m) const;
};

/// Micro-batch m of this rank at `step`, ids = places in the order.
[[nodiscard]] Batch train_batch(const TokenDataset& data, const SampleOrder& order, const BatchLayout& layout,
                                std::int64_t step, std::int64_t m, AttendAcrossDocuments attend);

/// The fixed validation set: the first n samples in file order (all when n is 0 or larger than the data). Every rank
/// takes part in all num_rounds() rounds, some perhaps with fewer sequences than b, or none.
struct ValidationLayout {
  std::int64_t num_sequences = 0;  ///< n, at most the data's.
  std::int64_t micro_batch = 0;    ///< b
  int dp_size = 1;
  int dp_rank = 0;

  [[nodiscard]] std::int64_t num_rounds() const;  ///< ceil(n / (D * b))
};
[[nodiscard]] ValidationLayout validation_layout(const TokenDataset& data, std::int64_t num_sequences,
                                                 const BatchLayout& layout);
/// Round `round` of this rank: samples [(round * D + d) * b, ... + b), as far as they exist. Ids = samples.
[[nodiscard]] Batch validation_batch(const TokenDataset& data, const ValidationLayout& layout, std::int64_t round,
                                     AttendAcrossDocuments attend);

}  // namespace weft::parallel
