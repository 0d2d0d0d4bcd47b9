// FlashAttention-2's backward, queries outside, keys inside: with the scores transposed as in the forward, everything
// that must be packed belongs to the queries and is packed once per block of them.
#include <algorithm>
#include <limits>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/vector_math.h"

namespace weft::kernels::cpu {
namespace {

/// One block of queries of one head: what the backward needs of it, packed, and the gradient of the queries.
template <class T>
class BackwardBlock {
 public:
  explicit BackwardBlock(std::int64_t head_dim)
      : head_dim_(head_dim),
        padded_dim_(round_up(head_dim, kTileCols<T>)),
        scratch_(2 * kQueryStride<T> * (head_dim + kBlockKeys) + kBlockQueries * (3 * padded_dim_ + 2) +
                 3 * kBlockKeys * padded_dim_),
        q_t_(scratch_.take(kQueryStride<T> * head_dim)),
        dout_t_(scratch_.take(kQueryStride<T> * head_dim)),
        probs_(scratch_.take(kQueryStride<T> * kBlockKeys)),
        dscores_(scratch_.take(kQueryStride<T> * kBlockKeys)),
        q_(scratch_.take(kBlockQueries * padded_dim_)),
        dout_(scratch_.take(kBlockQueries * padded_dim_)),
        dq_(scratch_.take(kBlockQueries * padded_dim_)),
        lse_(scratch_.take(kBlockQueries)),
        delta_(scratch_.take(kBlockQueries)),
        keys_(scratch_.take(kBlockKeys * padded_dim_)),
        values_(scratch_.take(kBlockKeys * padded_dim_)),
        d_block_(scratch_.take(kBlockKeys * padded_dim_)) {}

  /// q, dout, out: [queries, d]; lse: [queries, 1].
  void start(Matrix<const T> q, Matrix<const T> dout, Matrix<const T> out, Matrix<const T> lse, T scale) {
    num_queries_ = q.rows;
    width_ = round_up(q.rows, kTileCols<T>);
    transpose_block(q_t_, q, scale, width_);
    transpose_block(dout_t_, dout, T(1), width_);
    copy_block(q_, q, scale, q.rows, padded_dim_);
    copy_block(dout_, dout, T(1), q.rows, padded_dim_);
    std::fill_n(dq_, width_ * padded_dim_, T(0));
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    std::fill_n(lse_, width_, kInfinity);  // exp(score - infinity) = 0: a query that sees nothing, or none at all
    std::fill_n(delta_, width_, T(0));
    for (std::int64_t i = 0; i < num_queries_; ++i) {
      lse_[i] = *lse.row(i) == -kInfinity ? kInfinity : *lse.row(i);
      const T *a = dout.row(i), *b = out.row(i);
      T dot = 0;
#pragma omp simd reduction(+ : dot)
      for (std::int64_t j = 0; j < head_dim_; ++j) dot += a[j] * b[j];
      delta_[i] = dot;
    }
  }

  /// dk += ds^T q, dv += p^T dout, dq += ds k, with ds = p * (dout v^T - delta). k, v, dk, dv: [keys, d]; query i sees
  /// the first visible[i] keys.
  void add(Matrix<T> dk, Matrix<T> dv, Matrix<const T> k, Matrix<const T> v, const std::int64_t* visible) {
    copy_block(keys_, k, T(1), round_up(k.rows, kTileRows), padded_dim_);
    copy_block(values_, v, T(1), round_up(k.rows, kTileRows), head_dim_);
    for (std::int64_t i = 0; i < width_; i += kTileCols<T>) differentiate_scores(i, visible);
    add_keys_gradient(dv, probs_, dout_, visible);
    add_keys_gradient(dk, dscores_, q_, visible);
    for (std::int64_t i = 0; i < width_; i += kTileRows)
      multiply_blocks<T, Layout::kColumns, true>({dq_ + i * padded_dim_, padded_dim_}, {dscores_ + i, kQueryStride<T>},
                                                 {keys_, padded_dim_}, kTileRows, padded_dim_,
                                                 visible[i + kTileRows - 1]);
  }

  void finish(Matrix<T> dq, T scale, Accumulate mode) const {
    for (std::int64_t i = 0; i < num_queries_; ++i) {
      const T* from = dq_ + i * padded_dim_;
      T* to = dq.row(i);
      if (mode == Accumulate::kOverwrite) std::fill_n(to, head_dim_, T(0));
#pragma omp simd
      for (std::int64_t j = 0; j < head_dim_; ++j) to[j] += scale * from[j];
    }
  }

 private:
  /// Probabilities and their scores' gradients, for the tile of queries that starts at `first`.
  void differentiate_scores(std::int64_t first, const std::int64_t* visible) {
    constexpr std::int64_t kStride = kQueryStride<T>, kWidth = kTileCols<T>;
    const std::int64_t num_keys = round_up(visible[first + kWidth - 1], kTileRows);
    multiply_blocks<T, Layout::kRows, false>({probs_ + first, kStride}, {keys_, padded_dim_}, {q_t_ + first, kStride},
                                             num_keys, kWidth, head_dim_);
    multiply_blocks<T, Layout::kRows, false>({dscores_ + first, kStride}, {values_, head_dim_},
                                             {dout_t_ + first, kStride}, num_keys, kWidth, head_dim_);
    const T *lse = lse_ + first, *delta = delta_ + first;
    for (std::int64_t j = 0; j < num_keys; ++j) {
      T *p = probs_ + j * kStride + first, *ds = dscores_ + j * kStride + first;
#pragma omp simd
      for (std::int64_t i = 0; i < kWidth; ++i) {
        const T prob = exp(p[i] - lse[i]);
        p[i] = prob;
        ds[i] = prob * (ds[i] - delta[i]);
      }
    }
    for (std::int64_t j = visible[first]; j < num_keys; ++j) {
      T *p = probs_ + j * kStride + first, *ds = dscores_ + j * kStride + first;
#pragma omp simd
      for (std::int64_t i = 0; i < kWidth; ++i) {
        p[i] = j < visible[first + i] ? p[i] : T(0);
        ds[i] = j < visible[first + i] ? ds[i] : T(0);
      }
    }
  }

  /// to[j] += sum over queries i that see key j of weight[j, i] * rows[i]: from the first tile of queries on that sees
  /// a key of j's tile.
  void add_keys_gradient(Matrix<T> to, const T* weight, const T* rows, const std::int64_t* visible) {
    std::int64_t first = 0;
    for (std::int64_t j = 0; j < to.rows; j += kTileRows) {
      while (first < width_ && visible[first + kTileCols<T> - 1] <= j) first += kTileCols<T>;
      multiply_blocks<T, Layout::kRows, false>(
          {d_block_ + j * padded_dim_, padded_dim_}, {weight + j * kQueryStride<T> + first, kQueryStride<T>},
          {rows + first * padded_dim_, padded_dim_}, kTileRows, padded_dim_, std::max(num_queries_ - first, kNone));
    }
    for (std::int64_t j = 0; j < to.rows; ++j) {
      T* row = to.row(j);
      const T* add = d_block_ + j * padded_dim_;
#pragma omp simd
      for (std::int64_t c = 0; c < head_dim_; ++c) row[c] += add[c];
    }
  }

  static constexpr std::int64_t kNone = 0;
  std::int64_t head_dim_, padded_dim_;  // padded to whole tiles, as width_ is
  Scratch<T> scratch_;
  T *q_t_, *dout_t_, *probs_, *dscores_, *q_, *dout_, *dq_, *lse_, *delta_, *keys_, *values_, *d_block_;
  std::int64_t num_queries_ = 0, width_ = 0;
};

template <class T>
void zero(Matrix<T> m) {
  for (std::int64_t i = 0; i < m.rows; ++i) std::fill_n(m.row(i), m.cols, T(0));
}

template <class T>
void attention_backward(Stream&, const AttentionGradients<T>& grad, Matrix<const T> dout, Matrix<const T> out,
                        Matrix<const T> lse, const AttentionInputs<T>& in, const AttentionShape& shape) {
  const std::int64_t d = shape.head_dim, group = shape.num_heads / shape.num_kv_heads;
  const auto scale = static_cast<T>(shape.scale);
  const std::vector<RowBlock> query_blocks = cut_rows(in.q_rows, in.q.rows, kBlockQueries);
  const KeyBlocks key_blocks(in.k_rows, in.k.rows);
  BackwardBlock<T> block(d);
  zero(grad.dk);
  zero(grad.dv);
  for (const RowBlock& queries : query_blocks) {
    const Visibility visibility(queries, key_blocks.seen_by(queries), in.q_rows, in.k_rows);
    const auto rows = [&](auto m, std::int64_t first_col, std::int64_t cols) {
      return m.row_range(queries.first, queries.count).col_range(first_col, cols);
    };
    for (std::int64_t h = 0; h < shape.num_heads; ++h) {
      block.start(rows(in.q, h * d, d), rows(dout, h * d, d), rows(out, h * d, d), rows(lse, h, 1), scale);
      for (const auto& [keys, visible] : visibility.blocks()) {
        const auto kv = [&](auto m) { return m.row_range(keys.first, keys.count).col_range(h / group * d, d); };
        block.add(kv(grad.dk), kv(grad.dv), kv(in.k), kv(in.v), visible);
      }
      block.finish(rows(grad.dq, h * d, d), scale, grad.dq_mode);
    }
  }
}

}  // namespace

template <class T>
void add_attention_backward(Backend<T>& table) {
  table.attention_backward = attention_backward<T>;
}

template void add_attention_backward(Backend<float>& table);
template void add_attention_backward(Backend<double>& table);

}  // namespace weft::kernels::cpu
