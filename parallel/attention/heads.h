// parallel/attention/heads.h - the exchange of attention heads for tokens: before it a rank has all heads of its own
// tokens, after it its share of the heads of all tokens of the group.
// Source: DeepSpeed-Ulysses, arXiv:2309.14509. Key/value heads that several ranks need are sent to each of
// them, and their gradients are summed on the way back: LoongTrain, arXiv:2406.18485.
// Letters: P ranks of the head group, T rows of this rank in a unit, H = query heads per rank, Hkv key/value heads per
// rank after replication, d head width.
#pragma once

#include <cstdint>

#include "core/matrix.h"
#include "core/stream.h"

namespace weft::parallel {

/// Which heads each rank of a group of P works on. Query heads are cut evenly. A rank holds a copy of a key/value head
/// for each run of its query heads that reads it, as few as make all runs equally long: Hkv / P copies where that
/// divides, one where P is a multiple of Hkv.
struct HeadSplit {
  int num_ranks = 1;                             ///< P
  std::int64_t head_dim = 0;                     ///< d
  std::int64_t heads = 0;                        ///< H
  std::int64_t kv_heads = 0;                     ///< Hkv, copies counted.
  std::int64_t num_heads = 0, num_kv_heads = 0;  ///< Of the model.

  [[nodiscard]] std::int64_t q_width() const { return heads * head_dim; }
  [[nodiscard]] std::int64_t kv_width() const { return kv_heads * head_dim; }
  [[nodiscard]] std::int64_t width() const { return q_width() + 2 * kv_width(); }  ///< Of one row of q, k and v.
  /// The model's key/value head that `rank` holds as its i-th.
  [[nodiscard]] std::int64_t kv_head(int rank, std::int64_t i) const;
};
/// Throws kInvalidArgument unless P divides the query heads.
[[nodiscard]] HeadSplit split_heads(std::int64_t num_heads, std::int64_t num_kv_heads, std::int64_t head_dim,
                                    int num_ranks);

/// Rows for each rank, packed one rank behind the other: [P * T, width()] from [T, (num_heads + 2 num_kv_heads) d].
template <class T>
void pack_heads(Stream& stream, Matrix<T> packed, Matrix<const T> qkv, const HeadSplit& split);
/// The way back: gradients of copies of one key/value head are summed, by rank, then by place.
template <class T>
void unpack_head_gradients(Stream& stream, Matrix<T> d_qkv, Matrix<const T> packed, const HeadSplit& split);

/// The same for attention's output: packed [P * T, H d], rank after rank; context [T, num_heads d].
template <class T>
void pack_context(Stream& stream, Matrix<T> packed, Matrix<const T> context, const HeadSplit& split);
template <class T>
void unpack_context(Stream& stream, Matrix<T> context, Matrix<const T> packed, const HeadSplit& split);

/// The order of rows after the exchange: as received, [P ranks, sequences, rows of a sequence], and as attention wants
/// it (gather_heads of the layout), [sequences, P ranks, rows of a sequence].
struct CoreOrder {
  int num_ranks = 1;
  std::int64_t sequences = 0;
  std::int64_t rows_per_sequence = 0;  ///< On one rank, before the exchange.
};
/// Both [P * T, any], of any strides.
template <class T>
void to_core_order(Stream& stream, Matrix<T> core, Matrix<const T> packed, const CoreOrder& order);
template <class T>
void from_core_order(Stream& stream, Matrix<T> packed, Matrix<const T> core, const CoreOrder& order);

}  // namespace weft::parallel
