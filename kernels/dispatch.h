// kernels/dispatch.h - the entries of a routing table on their way: counted by expert, placed in the order in which
// they are sent, and moved in blocks of rows between the orders of parallel/moe/dispatch_plan.h.
// Letters: [D, K] the table, E experts of the whole group, L experts of a rank, P = E / L ranks.
#pragma once

#include <cstdint>
#include <span>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"

namespace weft::kernels {

/// Entries of the table's rows [cuts[p], cuts[p + 1]) that name each expert: expert r * L + l of piece p at
/// counts[(r * pieces + p) * L + l]. counts: [P, pieces, L]; expert: [D, K], -1 where an entry goes nowhere; cuts: on
/// the host, read before the call returns.
struct RowCounts {
  std::int64_t* data = nullptr;
  std::int64_t num_experts = 0, num_local_experts = 0;
};
void count_rows(Stream& stream, const RowCounts& counts, Matrix<const std::int32_t> expert,
                std::span<const std::int64_t> cuts);

/// The entries of a chunk sorted by (expert, row, choice). row[t, k] = place of entry (t, k), -1 where its expert is
/// -1; token[place] = source[t, k], or first_token + t without sources. row, expert, source: [D, K] (source.data may be
/// nullptr; expert.data == nullptr: entry (t, k) names expert k); token: as long as entries have places.
struct RowPlaces {
  Matrix<std::int32_t> row;
  std::int32_t* token = nullptr;
  std::int64_t first_token = 0;
};
void place_rows(Stream& stream, const RowPlaces& out, Matrix<const std::int32_t> expert,
                Matrix<const std::int32_t> source, std::int64_t num_experts);

/// Rows [from, from + count) of one matrix as rows [to, to + count) of another.
struct RowBlock {
  std::int64_t to = 0, from = 0, count = 0;
  friend bool operator==(const RowBlock&, const RowBlock&) = default;
};
/// out's blocks = in's blocks; they overlap in neither. Widths are equal. blocks: on the host, read before the call
/// returns.
template <class T>
void copy_blocks(Stream& stream, Matrix<T> out, Matrix<const T> in, std::span<const RowBlock> blocks);

}  // namespace weft::kernels
