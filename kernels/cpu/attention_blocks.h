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

inline constexpr std::int64_t kBlockQueries = 64;
inline constexpr std::int64_t kBlockKeys = 64;

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

/// True when every query of the block sees every key of the block.
[[nodiscard]] inline bool all_visible(const RowBlock& queries, const RowBlock& keys) {
  return keys.max_position <= queries.min_position;
}

/// visible[i] for column i of a transposed score block: the query's position, or less than any position past the end.
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

/// to[i, j] = factor * from[i, j], with zeros in the padding up to [rows, cols]. Returns a view of `to`.
template <class T>
void copy_block(T* to, Matrix<const T> from, T factor, std::int64_t rows, std::int64_t cols);
/// to[j, i] = factor * from[i, j]: [cols of from, rows], with zeros where i is past from's rows.
template <class T>
void transpose_block(T* to, Matrix<const T> from, T factor, std::int64_t rows);

}  // namespace weft::kernels::cpu
