// kernels/cpu/attention_blocks.h - what the forward and the backward of attention share: which blocks of queries meet
// which blocks of keys, and the copies of a block that the products work on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/memory.h"
#include "kernels/attention.h"
#include "kernels/cpu/block_gemm.h"

namespace weft::kernels::cpu {

inline constexpr std::int64_t kBlockQueries = 128;
inline constexpr std::int64_t kBlockKeys = 64;

/// Columns that a transposed block of queries takes: one vector more than there are, so that rows do not all fall into
/// the same few sets of the cache.
template <class T>
inline constexpr std::int64_t kQueryStride = kBlockQueries + Simd<T>::kLanes;

/// Rows [first, first + count) of one segment, with their first and last (smallest and largest) position.
struct RowBlock {
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int32_t segment = 0;
  std::int32_t min_position = 0;
  std::int32_t max_position = 0;
};

/// Cuts [0, num_rows) at segment borders and into blocks of at most `max_rows`. Throws kInvalidArgument where positions
/// descend inside a segment.
[[nodiscard]] std::vector<RowBlock> cut_rows(AttentionRows rows, std::int64_t num_rows, std::int64_t max_rows);

/// Blocks of keys by segment: [begin, end) of `blocks` for each run, in order of segment id.
class KeyBlocks {
 public:
  KeyBlocks(AttentionRows rows, std::int64_t num_rows);
  /// The blocks that some query of `queries` may see, in ascending order of position.
  [[nodiscard]] std::span<const RowBlock> seen_by(const RowBlock& queries) const;

 private:
  struct Run {
    std::int32_t segment;
    std::size_t begin, end;
  };
  std::vector<RowBlock> blocks_;
  std::vector<Run> runs_;  // sorted by segment
};

/// How many keys of a block each query of a block sees: the first visible[i] ones, since positions ascend, so the
/// counts ascend too.
struct VisibleKeys {
  RowBlock keys;
  const std::int64_t* visible;  ///< [kBlockQueries]; past the last query, its count is repeated.
};

/// The mask of one block of queries against the blocks of keys that it meets: O(rows) counts, the same for all heads.
class Visibility {
 public:
  Visibility(const RowBlock& queries, std::span<const RowBlock> key_blocks, AttentionRows q_rows, AttentionRows k_rows);
  Visibility(const Visibility&) = delete;
  [[nodiscard]] const std::vector<VisibleKeys>& blocks() const { return blocks_; }

 private:
  std::vector<std::int64_t> counts_;
  std::vector<VisibleKeys> blocks_;  // point into counts_
};

/// One scratch allocation, cut into blocks.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t elements)
      : memory_(Device{}, elements * static_cast<std::int64_t>(sizeof(T))), next_(memory_.as<T>()) {}
  [[nodiscard]] T* take(std::int64_t elements) {
    T* taken = next_;
    next_ += elements;
    return taken;
  }

 private:
  Memory memory_;
  T* next_;
};

/// to[i, j] = factor * from[i, j], packed as [rows, cols], with zeros in the padding.
template <class T>
void copy_block(T* to, Matrix<const T> from, T factor, std::int64_t rows, std::int64_t cols);
/// to[j, i] = factor * from[i, j]; rows of `to` are kQueryStride<T> apart, and zero from from.rows up to `padded`.
template <class T>
void transpose_block(T* to, Matrix<const T> from, T factor, std::int64_t padded);

}  // namespace weft::kernels::cpu
