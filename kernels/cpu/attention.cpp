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

/// One block of queries of one head, and its running softmax. Sizes: Q = kBlockQueries, C = kBlockKeys, d padded to D.
template <class T>
class ForwardBlock {
 public:
  explicit ForwardBlock(std::int64_t head_dim)
      : head_dim_(head_dim),
        padded_dim_(round_up(head_dim, kTileCols<T>)),
        scratch_(kBlockQueries * (2 * padded_dim_ + 4) + kBlockKeys * (kBlockQueries + 2 * padded_dim_)),
        queries_t_(scratch_.take(kBlockQueries * padded_dim_)),
        out_(scratch_.take(kBlockQueries * padded_dim_)),
        max_(scratch_.take(kBlockQueries)),
        sum_(scratch_.take(kBlockQueries)),
        new_max_(scratch_.take(kBlockQueries)),
        rescale_(scratch_.take(kBlockQueries)),
        scores_(scratch_.take(kBlockKeys * kBlockQueries)),
        keys_(scratch_.take(kBlockKeys * padded_dim_)),
        values_(scratch_.take(kBlockKeys * padded_dim_)) {}

  void start(Matrix<const T> q, const std::int32_t* position, T scale) {
    position_ = position;
    num_queries_ = q.rows;
    width_ = round_up(q.rows, kTileCols<T>);
    transpose_block(queries_t_, q, scale, width_);
    std::fill_n(out_, width_ * padded_dim_, T(0));
    std::fill_n(max_, width_, kMinusInfinity<T>);
    std::fill_n(sum_, width_, T(0));
  }

  /// k, v: [keys, d]. `key_position` is nullptr when all of the queries see all of the keys.
  void add(Matrix<const T> k, Matrix<const T> v, const std::int32_t* key_position) {
    const std::int64_t height = round_up(k.rows, kTileRows);
    copy_block(keys_, k, T(1), height, head_dim_);
    copy_block(values_, v, T(1), v.rows, padded_dim_);
    multiply_blocks<T, Layout::kRows, false>({scores_, width_}, {keys_, head_dim_}, {queries_t_, width_}, height,
                                             width_, head_dim_);
    if (key_position != nullptr) mask(key_position, k.rows);
    softmax(k.rows);
    multiply_blocks<T, Layout::kColumns, true>({out_, padded_dim_}, {scores_, width_}, {values_, padded_dim_}, width_,
                                               padded_dim_, k.rows);
  }

  /// out: [queries, d]; lse: [queries], one column of the caller's matrix.
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
  void mask(const std::int32_t* key_position, std::int64_t num_keys) {
    for (std::int64_t j = 0; j < num_keys; ++j) {
      T* score = scores_ + j * width_;
      const std::int32_t key = key_position[j];
#pragma omp simd
      for (std::int64_t i = 0; i < num_queries_; ++i) score[i] = key <= position_[i] ? score[i] : kMinusInfinity<T>;
    }
  }

  /// Scores become exp(score - new maximum); what was summed before is brought to the new maximum.
  void softmax(std::int64_t num_keys) {
    std::copy_n(max_, width_, new_max_);
    for (std::int64_t j = 0; j < num_keys; ++j) {
      const T* score = scores_ + j * width_;
#pragma omp simd
      for (std::int64_t i = 0; i < width_; ++i) new_max_[i] = score[i] > new_max_[i] ? score[i] : new_max_[i];
    }
#pragma omp simd
    for (std::int64_t i = 0; i < width_; ++i) {
      const T shift = finite_or_zero(new_max_[i]);
      rescale_[i] = exp(max_[i] - shift);
      sum_[i] *= rescale_[i];
      max_[i] = new_max_[i];
      new_max_[i] = shift;
    }
    for (std::int64_t j = 0; j < num_keys; ++j) {
      T* score = scores_ + j * width_;
#pragma omp simd
      for (std::int64_t i = 0; i < width_; ++i) {
        score[i] = exp(score[i] - new_max_[i]);
        sum_[i] += score[i];
      }
    }
    for (std::int64_t i = 0; i < width_; ++i) {
      T* row = out_ + i * padded_dim_;
      const T factor = rescale_[i];
#pragma omp simd
      for (std::int64_t j = 0; j < padded_dim_; ++j) row[j] *= factor;
    }
  }

  std::int64_t head_dim_, padded_dim_;
  Scratch<T> scratch_;
  T *queries_t_, *out_, *max_, *sum_, *new_max_, *rescale_, *scores_, *keys_, *values_;
  const std::int32_t* position_ = nullptr;
  std::int64_t num_queries_ = 0, width_ = 0;  // width: num_queries padded to whole tiles
};

template <class T>
void attention_forward(Stream&, Matrix<T> out, Matrix<T> lse, const AttentionInputs<T>& in,
                       const AttentionShape& shape) {
  const std::int64_t d = shape.head_dim, group = shape.num_heads / shape.num_kv_heads;
  const std::vector<RowBlock> query_blocks = cut_rows(in.q_rows, in.q.rows, kBlockQueries);
  const KeyBlocks key_blocks(in.k_rows, in.k.rows);
  ForwardBlock<T> block(d);
  for (const RowBlock& queries : query_blocks) {
    const auto visible_keys = key_blocks.seen_by(queries);
    for (std::int64_t h = 0; h < shape.num_heads; ++h) {
      block.start(in.q.row_range(queries.first, queries.count).col_range(h * d, d), in.q_rows.position + queries.first,
                  static_cast<T>(shape.scale));
      const Matrix<const T> k = in.k.col_range(h / group * d, d), v = in.v.col_range(h / group * d, d);
      for (const RowBlock& keys : visible_keys)
        block.add(k.row_range(keys.first, keys.count), v.row_range(keys.first, keys.count),
                  all_visible(queries, keys) ? nullptr : in.k_rows.position + keys.first);
      block.finish(out.row_range(queries.first, queries.count).col_range(h * d, d),
                   lse.row_range(queries.first, queries.count).col_range(h, 1));
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
