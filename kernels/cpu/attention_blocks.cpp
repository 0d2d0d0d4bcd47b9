#include "kernels/cpu/attention_blocks.h"

#include <algorithm>

#include "core/error.h"

namespace weft::kernels::cpu {

std::vector<RowBlock> cut_rows(AttentionRows rows, std::int64_t num_rows, std::int64_t max_rows) {
  std::vector<RowBlock> blocks;
  for (std::int64_t t = 0; t < num_rows; ++t) {
    const std::int32_t segment = rows.segment[t], position = rows.position[t];
    const bool same_segment = !blocks.empty() && blocks.back().segment == segment;
    WEFT_CHECK(!same_segment || position >= blocks.back().max_position, "attention: position ", position, " at row ", t,
               " after ", blocks.back().max_position, " in segment ", segment, ": positions must ascend");
    if (!same_segment || blocks.back().count == max_rows) blocks.push_back({t, 0, segment, position, position});
    ++blocks.back().count;
    blocks.back().max_position = position;
  }
  return blocks;
}

KeyBlocks::KeyBlocks(AttentionRows rows, std::int64_t num_rows) : blocks_(cut_rows(rows, num_rows, kBlockKeys)) {
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    if (runs_.empty() || runs_.back().segment != blocks_[b].segment) runs_.push_back({blocks_[b].segment, b, b});
    runs_.back().end = b + 1;
  }
  std::sort(runs_.begin(), runs_.end(), [](const Run& a, const Run& b) { return a.segment < b.segment; });
  for (std::size_t r = 1; r < runs_.size(); ++r)
    WEFT_CHECK(runs_[r].segment != runs_[r - 1].segment, "attention: segment ", runs_[r].segment,
               " comes in two runs of key rows: a segment must be one run");
}

std::span<const RowBlock> KeyBlocks::seen_by(const RowBlock& queries) const {
  const auto run = std::lower_bound(runs_.begin(), runs_.end(), queries.segment,
                                    [](const Run& r, std::int32_t segment) { return r.segment < segment; });
  if (run == runs_.end() || run->segment != queries.segment) return {};
  const auto begin = blocks_.begin() + static_cast<std::ptrdiff_t>(run->begin);
  const auto end = blocks_.begin() + static_cast<std::ptrdiff_t>(run->end);
  return {begin, std::partition_point(begin, end,
                                      [&](const RowBlock& keys) { return keys.min_position <= queries.max_position; })};
}

template <class T>
void copy_block(T* to, Matrix<const T> from, T factor, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t i = 0; i < from.rows; ++i) {
    const T* row = from.row(i);
    T* out = to + i * cols;
#pragma omp simd
    for (std::int64_t j = 0; j < from.cols; ++j) out[j] = factor * row[j];
    std::fill(out + from.cols, out + cols, T(0));
  }
  std::fill(to + from.rows * cols, to + rows * cols, T(0));
}

template <class T>
void transpose_block(T* to, Matrix<const T> from, T factor, std::int64_t rows) {
  for (std::int64_t j = 0; j < from.cols; ++j) {
    const T* column = from.data + j;
    T* out = to + j * rows;
    for (std::int64_t i = 0; i < from.rows; ++i) out[i] = factor * column[i * from.stride];
    std::fill(out + from.rows, out + rows, T(0));
  }
}

#define WEFT_INSTANTIATE(T)                       \
  template decltype(copy_block<T>) copy_block<T>; \
  template decltype(transpose_block<T>) transpose_block<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels::cpu
