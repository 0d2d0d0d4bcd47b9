#include "kernels/cpu/attention_blocks.h"

#include <algorithm>
#include <type_traits>

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

Visibility::Visibility(const RowBlock& queries, std::span<const RowBlock> key_blocks, AttentionRows q_rows,
                       AttentionRows k_rows)
    : counts_(key_blocks.size() * static_cast<std::size_t>(kBlockQueries)) {
  std::int64_t* visible = counts_.data();
  for (const RowBlock& keys : key_blocks) {
    blocks_.push_back({keys, visible});
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < kBlockQueries; ++i) {
      if (i < queries.count)
        while (count < keys.count && k_rows.position[keys.first + count] <= q_rows.position[queries.first + i]) ++count;
      *visible++ = count;
    }
  }
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

namespace {

/// A square of vectors, transposed in registers: interleaving rows i and i + n/2 into rows 2i and 2i + 1 turns the bits
/// of (row, column) by one, so log2(n) rounds swap them.
template <class T>
void transpose_square(T* to, std::int64_t to_stride, const T* from, std::int64_t from_stride, T factor) {
  using S = Simd<T>;
  using Vector = typename S::Vector;
  constexpr int kSide = static_cast<int>(S::kLanes);
  using Index = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  typedef Index Indices __attribute__((vector_size(kVectorBytes)));
  Indices low{}, high{};
  for (int i = 0; i < kSide; ++i) {
    low[i] = i / 2 + (i % 2) * kSide;
    high[i] = low[i] + kSide / 2;
  }
  Vector rows[kSide], next[kSide];
  for (int i = 0; i < kSide; ++i) rows[i] = factor * S::load(from + i * from_stride);
#pragma GCC unroll 4
  for (int round = 1; round < kSide; round *= 2) {
#pragma GCC unroll 16
    for (int i = 0; i < kSide / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + kSide / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + kSide / 2], high);
    }
    std::copy_n(next, kSide, rows);
  }
  for (int i = 0; i < kSide; ++i) S::store(to + i * to_stride, rows[i]);
}

}  // namespace

template <class T>
void transpose_block(T* to, Matrix<const T> from, T factor, std::int64_t padded) {
  constexpr std::int64_t kSide = Simd<T>::kLanes, kStride = kQueryStride<T>;
  const std::int64_t square_rows = from.rows / kSide * kSide, square_cols = from.cols / kSide * kSide;
  for (std::int64_t i = 0; i < square_rows; i += kSide)
    for (std::int64_t j = 0; j < square_cols; j += kSide)
      transpose_square(to + j * kStride + i, kStride, from.row(i) + j, from.stride, factor);
  for (std::int64_t j = 0; j < from.cols; ++j) {
    T* out = to + j * kStride;
    for (std::int64_t i = j < square_cols ? square_rows : 0; i < from.rows; ++i) out[i] = factor * from.row(i)[j];
    std::fill(out + from.rows, out + padded, T(0));
  }
}

#define WEFT_INSTANTIATE(T)                       \
  template decltype(copy_block<T>) copy_block<T>; \
  template decltype(transpose_block<T>) transpose_block<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels::cpu
