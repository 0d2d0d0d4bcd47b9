// parallel/data/shard.h - one rank's part of a micro-batch that a sequence-parallel group shares.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallel/attention/layout.h"
#include "parallel/data/batch.h"
#include "parallel/step/step_state.h"

namespace weft::parallel {

/// The rows of one rank, T = B * S / SP, in the order of its layout. Targets were shifted before the cut, so each row
/// has its own. What attention needs to know of all rows of the group is here too: documents are data, and every rank
/// of the group has read the whole sequences.
struct LocalBatch {
  std::vector<std::int32_t> tokens, targets, positions, segments;  ///< [T]
  std::vector<std::int32_t> core_positions, core_segments;         ///< [ring, T * heads], MicroBatch.
  std::vector<std::int64_t> sample_ids;                            ///< [B]
  std::vector<std::int32_t> places;                                ///< [SP, T], MicroBatch.

  [[nodiscard]] MicroBatch view() const;  ///< Valid as long as this object.
};

/// Throws kInvalidArgument when the sequences of `batch` do not divide (zigzag_layout).
[[nodiscard]] LocalBatch shard(const Batch& batch, SequenceGroup group, int sp_rank);

}  // namespace weft::parallel
