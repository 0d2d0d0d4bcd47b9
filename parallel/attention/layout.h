// parallel/attention/layout.h - which rank of a sequence-parallel group holds which tokens.
// Sources: zigzag order ("head-tail"), as in zhuzilin/ring-flash-attention and Transformer Engine; heads inside, ring
// outside: USP, arXiv:2405.07719. Positions live here, never in the order of ranks: whatever masks, rotates
// or shards reads a Layout.
#pragma once

#include <cstdint>
#include <vector>

namespace weft::parallel {

/// One unbroken run of tokens of one sequence on one rank.
struct Segment {
  std::int32_t doc = 0;        ///< The sequence: its number in the micro-batch.
  std::int64_t pos0 = 0;       ///< Place of the run's first token in the sequence.
  std::int64_t len = 0;        ///< Tokens.
  std::int64_t local_off = 0;  ///< Row of the first token on its rank.
  friend bool operator==(const Segment&, const Segment&) = default;
};

/// A partition of the tokens of a micro-batch over ranks. The rows of a rank are ordered by sequence, and ascend in it.
struct Layout {
  std::vector<std::vector<Segment>> ranks;  ///< [ranks], each in order of rows.

  [[nodiscard]] std::int64_t num_rows(int rank) const;
  friend bool operator==(const Layout&, const Layout&) = default;
};

/// How a sequence is shared: `ring` groups of `heads` ranks, rank = ring_rank * heads + head_rank.
struct SequenceGroup {
  int ring = 1;
  int heads = 1;
  [[nodiscard]] int size() const { return ring * heads; }
};

/// num_sequences sequences of S tokens each. A sequence is cut into 2 * ring chunks; ring rank r holds chunks r and
/// 2 * ring - 1 - r, so that all have equally many causal pairs; its tokens are split evenly over its head ranks.
/// Throws kInvalidArgument unless S is a multiple of 2 * ring * heads (of anything when the group is one rank).
[[nodiscard]] Layout zigzag_layout(int num_sequences, std::int64_t sequence_length, SequenceGroup group);

/// The layout after the exchange of heads for tokens: rank r holds what ranks r * heads to r * heads + heads - 1 held.
[[nodiscard]] Layout gather_heads(const Layout& layout, int heads);

/// For each row of `rank`, its token's place in the micro-batch: doc * S + place in the sequence.
[[nodiscard]] std::vector<std::int64_t> tokens_of(const Layout& layout, int rank, std::int64_t sequence_length);

}  // namespace weft::parallel
