// FlashAttention-2's forward. Scores are kept transposed, [keys, queries]: all that softmax does to a query (maximum,
// sum, exp) is then one operation per lane, keys and values are used as they lie, and only the queries are packed.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/rowwise.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
inline constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();

/// One block of queries of one head, and its running softmax.
template <class T>
class ForwardBlock {
 public:
  explicit ForwardBlock(std::int64_t head_dim)
      : head_dim_(head_dim),
        padded_dim_(round_up(head_dim, kTileCols<T>)),
        scratch_(kQueryStride<T> * (kBlockKeys + head_dim) + kBlockQueries * (padded_dim_ + 3) +
                 2 * kBlockKeys * padded_dim_),
        queries_t_(scratch_.take(kQueryStride<T> * head_dim)),
        scores_(scratch_.take(kQueryStride<T> * kBlockKeys)),
        out_(scratch_.take(kBlockQueries * padded_dim_)),
        keys_(scratch_.take(kBlockKeys * padded_dim_)),
        values_(scratch_.take(kBlockKeys * padded_dim_)),
        max_(scratch_.take(kBlockQueries)),
        sum_(scratch_.take(kBlockQueries)),
        rescale_(scratch_.take(kBlockQueries)) {}

  void start(Matrix<const T> q, T scale) {
    num_queries_ = q.rows;
    width_ = round_up(q.rows, kTileCols<T>);
    transpose_block(queries_t_, q, scale, width_);
    std::fill_n(out_, width_ * padded_dim_, T(0));
    std::fill_n(max_, width_, kMinusInfinity<T>);
    std::fill_n(sum_, width_, T(0));
  }

  /// k, v: [keys, d]; query i sees the first visible[i] of them.
  void add(Matrix<const T> k, Matrix<const T> v, const std::int64_t* visible) {
    copy_block(keys_, k, T(1), round_up(k.rows, kTileRows), head_dim_);
    copy_block(values_, v, T(1), v.rows, padded_dim_);
    for (std::int64_t i = 0; i < width_; i += kTileCols<T>) {
      const std::int64_t num_keys = visible[i + kTileCols<T> - 1];
      multiply_blocks<T, Layout::kRows, false>({scores_ + i, kQueryStride<T>}, {keys_, head_dim_},
                                               {queries_t_ + i, kQueryStride<T>}, round_up(num_keys, kTileRows),
                                               kTileCols<T>, head_dim_);
      mask(i, visible, num_keys);
      softmax(i, num_keys);
    }
    rescale_out();
    for (std::int64_t i = 0; i < width_; i += kTileRows)
      multiply_blocks<T, Layout::kColumns, true>({out_ + i * padded_dim_, padded_dim_}, {scores_ + i, kQueryStride<T>},
                                                 {values_, padded_dim_}, kTileRows, padded_dim_,
                                                 visible[i + kTileRows - 1]);
  }

  /// out: [queries, d]; lse: [queries, 1], one column of the caller's matrix.
  void finish(Matrix<T> out, Matrix<T> lse) const {
    for (std::int64_t i = 0; i < num_queries_; ++i) {
      const bool blind = max_[i] == kMinusInfinity<T> && sum_[i] == T(0);
      const T inverse = blind ? T(0) : T(1) / sum_[i];
      const T* from = out_ + i * padded_dim_;
      T* to = out.row(i);
#pragma omp simd
      for (std::int64_t j = 0; j < head_dim_; ++j) to[j] = from[j] * inverse;
      *lse.row(i) = blind ? kMinusInfinity<T> : finite_or_zero(max_[i]) + std::log(sum_[i]);
    }
  }

 private:
  /// Takes out what some queries of the tile that starts at `first` see and others do not.
  void mask(std::int64_t first, const std::int64_t* visible, std::int64_t num_keys) {
    for (std::int64_t j = visible[first]; j < num_keys; ++j) {
      T* score = scores_ + j * kQueryStride<T> + first;
#pragma omp simd
      for (std::int64_t i = 0; i < kTileCols<T>; ++i) score[i] = j < visible[first + i] ? score[i] : kMinusInfinity<T>;
    }
  }

  /// A tile's scores become exp(score - new maximum); what was summed before is brought to the new maximum.
  void softmax(std::int64_t first, std::int64_t num_keys) {
    constexpr std::int64_t kWidth = kTileCols<T>;
    T *const max = max_ + first, *const sum = sum_ + first, *const rescale = rescale_ + first;
    T new_max[kWidth], shift[kWidth];
    std::copy_n(max, kWidth, new_max);
    for (std::int64_t j = 0; j < num_keys; ++j) {
      const T* score = scores_ + j * kQueryStride<T> + first;
#pragma omp simd
      for (std::int64_t i = 0; i < kWidth; ++i) new_max[i] = score[i] > new_max[i] ? score[i] : new_max[i];
    }
#pragma omp simd
    for (std::int64_t i = 0; i < kWidth; ++i) {
      shift[i] = finite_or_zero(new_max[i]);
      rescale[i] = exp(max[i] - shift[i]);
      sum[i] *= rescale[i];
      max[i] = new_max[i];
    }
    for (std::int64_t j = 0; j < num_keys; ++j) {
      T* score = scores_ + j * kQueryStride<T> + first;
#pragma omp simd
      for (std::int64_t i = 0; i < kWidth; ++i) {
        score[i] = exp(score[i] - shift[i]);
        sum[i] += score[i];
      }
    }
  }

  void rescale_out() {
    for (std::int64_t i = 0; i < width_; ++i) {
      T* row = out_ + i * padded_dim_;
      const T factor = rescale_[i];
      if (factor == T(1)) continue;
#pragma omp simd
      for (std::int64_t j = 0; j < padded_dim_; ++j) row[j] *= factor;
    }
  }

  std::int64_t head_dim_, padded_dim_;  // padded to whole tiles, as width_ is
  Scratch<T> scratch_;
  T *queries_t_, *scores_, *out_, *keys_, *values_, *max_, *sum_, *rescale_;
  std::int64_t num_queries_ = 0, width_ = 0;
};

template <class T>
void attention_forward(Stream&, Matrix<T> out, Matrix<T> lse, const AttentionInputs<T>& in,
                       const AttentionShape& shape) {
  const std::int64_t d = shape.head_dim, group = shape.num_heads / shape.num_kv_heads;
  const std::vector<RowBlock> query_blocks = cut_rows(in.q_rows, in.q.rows, kBlockQueries);
  const KeyBlocks key_blocks(in.k_rows, in.k.rows);
  ForwardBlock<T> block(d);
  for (const RowBlock& queries : query_blocks) {
    const Visibility visibility(queries, key_blocks.seen_by(queries), in.q_rows, in.k_rows);
    const auto rows = [&](auto m, std::int64_t first_col, std::int64_t cols) {
      return m.row_range(queries.first, queries.count).col_range(first_col, cols);
    };
    for (std::int64_t h = 0; h < shape.num_heads; ++h) {
      block.start(rows(in.q, h * d, d), static_cast<T>(shape.scale));
      for (const auto& [keys, visible] : visibility.blocks()) {
        const auto kv = [&](auto m) { return m.row_range(keys.first, keys.count).col_range(h / group * d, d); };
        block.add(kv(in.k), kv(in.v), visible);
      }
      block.finish(rows(out, h * d, d), rows(lse, h, 1));
    }
  }
}

}  // namespace

template <class T>
void add_attention(Backend<T>& table) {
  table.attention_forward = attention_forward<T>;
}

template void add_attention(Backend<float>& table);
template void add_attention(Backend<double>& table);

}  // namespace weft::kernels::cpu
