#include "parallel/data/shard.h"

#include "core/error.h"

namespace weft::parallel {
namespace {

/// Appends the entries of `from` for the tokens of `layout` on `rank`.
void take(std::vector<std::int32_t>& to, const std::vector<std::int32_t>& from,
          const std::vector<std::int64_t>& tokens) {
  to.reserve(to.size() + tokens.size());
  for (const std::int64_t t : tokens) to.push_back(from[static_cast<std::size_t>(t)]);
}

}  // namespace

MicroBatch LocalBatch::view() const {
  return {tokens.data(),         targets.data(),       positions.data(),  segments.data(),
          core_positions.data(), core_segments.data(), sample_ids.data(), places.data()};
}

LocalBatch shard(const Batch& batch, SequenceGroup group, int sp_rank) {
  WEFT_CHECK(sp_rank >= 0 && sp_rank < group.size(), "rank ", sp_rank, " of a sequence group of ", group.size());
  const Layout layout = zigzag_layout(static_cast<int>(batch.num_sequences), batch.sequence_length, group);
  const std::vector<std::int64_t> mine = tokens_of(layout, sp_rank, batch.sequence_length);
  LocalBatch out;
  take(out.tokens, batch.tokens, mine);
  take(out.targets, batch.targets, mine);
  take(out.positions, batch.positions, mine);
  take(out.segments, batch.segments, mine);
  out.sample_ids = batch.sample_ids;
  for (int r = 0; r < group.size(); ++r)
    for (const std::int64_t t : tokens_of(layout, r, batch.sequence_length))
      out.places.push_back(static_cast<std::int32_t>(t % batch.sequence_length));
  const Layout core = gather_heads(layout, group.heads);
  for (int r = 0; r < group.ring; ++r) {
    const std::vector<std::int64_t> rows = tokens_of(core, r, batch.sequence_length);
    take(out.core_positions, batch.positions, rows);
    take(out.core_segments, batch.segments, rows);
  }
  return out;
}

}  // namespace weft::parallel
