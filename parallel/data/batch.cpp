#include "parallel/data/batch.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "core/error.h"
#include "kernels/cross_entropy.h"

namespace weft::parallel {
namespace {

using kernels::kIgnoreTarget;

/// Appends one sequence. `next_segment` is the first id that is still free.
void append_sequence(Batch& batch, const TokenDataset& data, std::int64_t sample, AttendAcrossDocuments attend,
                     std::int32_t& next_segment) {
  const TokenDataset::Window window = data.read(sample);
  const bool separate = attend == AttendAcrossDocuments::kNo;
  std::int32_t position = 0;
  for (std::size_t i = 0; i + 1 < window.tokens.size(); ++i, ++position) {
    if (separate && i > 0 && window.starts_document[i] != 0) {
      ++next_segment;
      position = 0;
    }
    const std::int32_t target = window.tokens[i + 1];
    const bool is_fair = !separate || window.starts_document[i + 1] == 0 || data.is_end_of_text(target);
    batch.tokens.push_back(window.tokens[i]);
    batch.targets.push_back(is_fair ? target : kIgnoreTarget);
    batch.positions.push_back(position);
    batch.segments.push_back(next_segment);
  }
  ++next_segment;
}

std::vector<std::int64_t> range(std::int64_t first, std::int64_t count) {
  std::vector<std::int64_t> values(static_cast<std::size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

}  // namespace

Batch make_batch(const TokenDataset& data, std::span<const std::int64_t> samples,
                 std::span<const std::int64_t> sample_ids, AttendAcrossDocuments attend) {
  WEFT_CHECK(samples.size() == sample_ids.size(), samples.size(), " samples, ", sample_ids.size(), " sample ids");
  Batch batch;
  batch.num_sequences = static_cast<std::int64_t>(samples.size());
  batch.sequence_length = data.options().sequence_length;
  batch.sample_ids.assign(sample_ids.begin(), sample_ids.end());
  for (auto* column : {&batch.tokens, &batch.targets, &batch.positions, &batch.segments})
    column->reserve(static_cast<std::size_t>(batch.num_tokens()));
  std::int32_t next_segment = 0;
  for (const std::int64_t sample : samples) append_sequence(batch, data, sample, attend, next_segment);
  return batch;
}

std::int64_t count_valid_targets(std::span<const std::int32_t> targets) {
  return std::ranges::count_if(targets, [](std::int32_t t) { return t != kIgnoreTarget; });
}

std::int64_t BatchLayout::num_micro_batches() const {
  WEFT_CHECK(micro_batch >= 1 && dp_size >= 1 && dp_rank >= 0 && dp_rank < dp_size, "rank ", dp_rank, " of ", dp_size,
             ", micro_batch ", micro_batch);
  const std::int64_t per_round = micro_batch * dp_size;
  WEFT_CHECK(global_batch >= 1 && global_batch % per_round == 0, "global_batch ", global_batch,
             " is no multiple of data-parallel ranks (", dp_size, ") * micro_batch (", micro_batch, ")");
  return global_batch / per_round;
}

std::int64_t BatchLayout::first_place(std::int64_t step, std::int64_t m) const {
  const std::int64_t num_micro = num_micro_batches();
  WEFT_CHECK(step >= 0 && m >= 0 && m < num_micro, "micro-batch ", m, " of ", num_micro, " at step ", step);
  return step * global_batch + (dp_rank * num_micro + m) * micro_batch;
}

Batch train_batch(const TokenDataset& data, const SampleOrder& order, const BatchLayout& layout, std::int64_t step,
                  std::int64_t m, AttendAcrossDocuments attend) {
  WEFT_CHECK(order.num_samples() == data.num_samples(), "an order of ", order.num_samples(),
             " samples for a data set of ", data.num_samples());
  const auto places = range(layout.first_place(step, m), layout.micro_batch);
  std::vector<std::int64_t> samples(places.size());
  std::ranges::transform(places, samples.begin(), order);
  return make_batch(data, samples, places, attend);
}

std::int64_t ValidationLayout::num_rounds() const {
  const std::int64_t per_round = micro_batch * dp_size;
  return (num_sequences + per_round - 1) / per_round;
}

ValidationLayout validation_layout(const TokenDataset& data, std::int64_t num_sequences, const BatchLayout& layout) {
  WEFT_CHECK(num_sequences >= 0 && layout.micro_batch >= 1, "validation of ", num_sequences, " sequences, micro_batch ",
             layout.micro_batch);
  const bool all = num_sequences == 0 || num_sequences > data.num_samples();
  return {all ? data.num_samples() : num_sequences, layout.micro_batch, layout.dp_size, layout.dp_rank};
}

Batch validation_batch(const TokenDataset& data, const ValidationLayout& layout, std::int64_t round,
                       AttendAcrossDocuments attend) {
  WEFT_CHECK(round >= 0 && round < layout.num_rounds(), "round ", round, " of ", layout.num_rounds());
  const std::int64_t begin = (round * layout.dp_size + layout.dp_rank) * layout.micro_batch;
  const auto samples = range(begin, std::clamp<std::int64_t>(layout.num_sequences - begin, 0, layout.micro_batch));
  return make_batch(data, samples, samples, attend);
}

}  // namespace weft::parallel
