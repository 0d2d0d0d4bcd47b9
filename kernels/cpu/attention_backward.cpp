// FlashAttention-2's backward, queries outside, keys inside: with the scores transposed as in the forward, everything
// that must be packed belongs to the queries and is packed once per block of them.
#include <algorithm>
#include <limits>

#include "kernels/cpu/attention_blocks.h"
#include "kernels/cpu/backend.h"
#include "kernels/cpu/vector_math.h"

namespace weft::kernels::cpu {
namespace {

template <class T>
void add_block(Matrix<T> to, const T* from, std::int64_t from_stride) {
  for (std::int64_t i = 0; i < to.rows; ++i) {
    T* row = to.row(i);
    const T* add = from + i * from_stride;
#pragma omp simd
    for (std::int64_t j = 0; j < to.cols; ++j) row[j] += add[j];
  }
}

/// One block of queries of one head: what the backward needs of it, packed, and the gradient of the queries.
template <class T>
class BackwardBlock {
 public:
  explicit BackwardBlock(std::int64_t head_dim)
      : head_dim_(head_dim),
        padded_dim_(round_up(head_dim, kTileCols<T>)),
        scratch_(kBlockQueries * (5 * padded_dim_ + 2) + kBlockKeys * (2 * kBlockQueries + 3 * padded_dim_)),
        q_(scratch_.take(kBlockQueries * padded_dim_)),
        q_t_(scratch_.take(kBlockQueries * padded_dim_)),
        dout_(scratch_.take(kBlockQueries * padded_dim_)),
        dout_t_(scratch_.take(kBlockQueries * padded_dim_)),
        dq_(scratch_.take(kBlockQueries * padded_dim_)),
        lse_(scratch_.take(kBlockQueries)),
        delta_(scratch_.take(kBlockQueries)),
        probs_(scratch_.take(kBlockKeys * kBlockQueries)),
        dscores_(scratch_.take(kBlockKeys * kBlockQueries)),
        keys_(scratch_.take(kBlockKeys * padded_dim_)),
        values_(scratch_.take(kBlockKeys * padded_dim_)),
        d_block_(scratch_.take(kBlockKeys * padded_dim_)) {}

  /// q, dout, out: [queries, d]; lse: [queries, 1].
  void start(Matrix<const T> q, Matrix<const T> dout, Matrix<const T> out, Matrix<const T> lse,
             const std::int32_t* position, T scale) {
    position_ = position;
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

  /// dk += ds^T q, dv += p^T dout, dq += ds k, with ds = p * (dout v^T - delta). k, v, dk, dv: [keys, d].
  void add(Matrix<T> dk, Matrix<T> dv, Matrix<const T> k, Matrix<const T> v, const std::int32_t* key_position) {
    const std::int64_t height = round_up(k.rows, kTileRows);
    copy_block(keys_, k, T(1), height, padded_dim_);
    copy_block(values_, v, T(1), height, head_dim_);
    multiply_blocks<T, Layout::kRows, false>({probs_, width_}, {keys_, padded_dim_}, {q_t_, width_}, height, width_,
                                             head_dim_);
    multiply_blocks<T, Layout::kRows, false>({dscores_, width_}, {values_, head_dim_}, {dout_t_, width_}, height,
                                             width_, head_dim_);
    differentiate_softmax(height);
    if (key_position != nullptr) mask(key_position, k.rows);
    multiply_blocks<T, Layout::kRows, false>({d_block_, padded_dim_}, {probs_, width_}, {dout_, padded_dim_}, height,
                                             padded_dim_, num_queries_);
    add_block(dv, d_block_, padded_dim_);
    multiply_blocks<T, Layout::kRows, false>({d_block_, padded_dim_}, {dscores_, width_}, {q_, padded_dim_}, height,
                                             padded_dim_, num_queries_);
    add_block(dk, d_block_, padded_dim_);
    multiply_blocks<T, Layout::kColumns, true>({dq_, padded_dim_}, {dscores_, width_}, {keys_, padded_dim_}, width_,
                                               padded_dim_, k.rows);
  }

  void finish(Matrix<T> dq, T scale) const {
    for (std::int64_t i = 0; i < num_queries_; ++i) {
      const T* from = dq_ + i * padded_dim_;
      T* to = dq.row(i);
#pragma omp simd
      for (std::int64_t j = 0; j < head_dim_; ++j) to[j] = scale * from[j];
    }
  }

 private:
  void differentiate_softmax(std::int64_t height) {
    for (std::int64_t j = 0; j < height; ++j) {
      T *p = probs_ + j * width_, *ds = dscores_ + j * width_;
#pragma omp simd
      for (std::int64_t i = 0; i < width_; ++i) {
        p[i] = exp(p[i] - lse_[i]);
        ds[i] = p[i] * (ds[i] - delta_[i]);
      }
    }
  }

  void mask(const std::int32_t* key_position, std::int64_t num_keys) {
    for (std::int64_t j = 0; j < num_keys; ++j) {
      T *p = probs_ + j * width_, *ds = dscores_ + j * width_;
      const std::int32_t key = key_position[j];
#pragma omp simd
      for (std::int64_t i = 0; i < num_queries_; ++i) {
        const bool visible = key <= position_[i];
        p[i] = visible ? p[i] : T(0);
        ds[i] = visible ? ds[i] : T(0);
      }
    }
  }

  std::int64_t head_dim_, padded_dim_;
  Scratch<T> scratch_;
  T *q_, *q_t_, *dout_, *dout_t_, *dq_, *lse_, *delta_, *probs_, *dscores_, *keys_, *values_, *d_block_;
  const std::int32_t* position_ = nullptr;
  std::int64_t num_queries_ = 0, width_ = 0;  // width: num_queries padded to whole tiles
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
    const auto visible_keys = key_blocks.seen_by(queries);
    const auto rows = [&](auto m, std::int64_t first_col, std::int64_t cols) {
      return m.row_range(queries.first, queries.count).col_range(first_col, cols);
    };
    for (std::int64_t h = 0; h < shape.num_heads; ++h) {
      block.start(rows(in.q, h * d, d), rows(dout, h * d, d), rows(out, h * d, d), rows(lse, h, 1),
                  in.q_rows.position + queries.first, scale);
      for (const RowBlock& keys : visible_keys) {
        const auto kv = [&](auto m) { return m.row_range(keys.first, keys.count).col_range(h / group * d, d); };
        block.add(kv(grad.dk), kv(grad.dv), kv(in.k), kv(in.v),
                  all_visible(queries, keys) ? nullptr : in.k_rows.position + keys.first);
      }
      block.finish(rows(grad.dq, h * d, d), scale);
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
