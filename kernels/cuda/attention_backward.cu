// kernels/cuda/attention_backward.cu - FlashAttention-2's backward without tensor cores in two kernels, one whose
// blocks own queries (dq) and one whose blocks own keys (dk, dv). Scores are computed twice for it; in return no two
// blocks add to one element.
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/flash.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T>
struct BackwardArguments {
  AttentionGradients<T> grad;
  Matrix<const T> dout;
  Matrix<const Wide<T>> lse, delta;  ///< delta: [Tq, Hq], <dout, out> of each row and head
  AttentionInputs<T> in;
  AttentionShape shape;
  const TileBounds *q_bounds, *k_bounds;
};

/// A warp per (row, head).
template <class T>
__global__ void delta_kernel(Matrix<Wide<T>> delta, Matrix<const T> dout, Matrix<const T> out) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_id();
  const std::int64_t t = i / delta.cols, h = i % delta.cols, dim = out.cols / delta.cols;
  if (t >= delta.rows) return;
  Wide<T> dot = 0;
  for (std::int64_t c = h * dim + lane_id(); c < (h + 1) * dim; c += kWarp) dot += dout.row(t)[c] * out.row(t)[c];
  dot = warp_sum(dot);
  if (lane_id() == 0) delta.row(t)[h] = dot;
}

/// What the scores of a query need: lse is +infinity where it saw nothing, since exp(score - infinity) = 0.
template <class T>
struct QueryTerms {
  T lse = std::numeric_limits<T>::infinity(), delta = 0;
};
template <class T>
__device__ QueryTerms<Wide<T>> terms_of(const BackwardArguments<T>& a, std::int64_t query, std::int64_t head) {
  if (query >= a.in.q.rows) return {};
  const Wide<T> lse = a.lse.row(query)[head];
  constexpr auto kInfinity = std::numeric_limits<Wide<T>>::infinity();
  return {lse == -kInfinity ? kInfinity : lse, a.delta.row(query)[head]};
}

/// Probability and score gradient of one pair from score = q k^T (scaled) and dprob = dout v^T.
template <class T>
struct PairGradient {
  T prob, dscore;
};
template <class T>
__device__ PairGradient<T> differentiate(T score, T dprob, const QueryTerms<T>& query, bool seen) {
  if (!seen) return {T(0), T(0)};
  const T prob = std::exp(score - query.lse);
  return {prob, prob * (dprob - query.delta)};
}

/// Grid: blocks of queries x heads. dq = scale * sum over keys of dscore k. Shared: q, dout and the sum [rows, d]; k
/// and v [32, d + 1]; dscores [rows, 32].
template <class T>
__global__ void query_gradient_kernel(BackwardArguments<T> a) {
  using W = Wide<T>;
  const int dim = static_cast<int>(a.shape.head_dim), stride = dim + 1;
  const int rows = static_cast<int>(blockDim.x) / kWarp * kRowsPerWarp, own = warp_id() * kRowsPerWarp;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * rows, head = blockIdx.y;
  const std::int64_t col = head * dim, kv_col = head / (a.shape.num_heads / a.shape.num_kv_heads) * dim;
  const W scale = static_cast<W>(a.shape.scale);
  W *const q = dynamic_shared<W>(), *const dout = q + rows * dim, *const sums = dout + rows * dim,
           *const keys = sums + rows * dim, *const values = keys + kTileRows * stride,
           *const dscores = values + kTileRows * stride;
  load_rows(q, dim, a.in.q, first, rows, col, dim, scale);
  load_rows(dout, dim, a.dout, first, rows, col, dim, W(1));
  for (int i = threadIdx.x; i < rows * dim; i += blockDim.x) sums[i] = W(0);
  RowPlace place[kRowsPerWarp];
  QueryTerms<W> terms[kRowsPerWarp];
  W keep[kRowsPerWarp];
  for (int r = 0; r < kRowsPerWarp; ++r) {
    place[r] = place_of(a.in.q_rows, first + own + r, a.in.q.rows);
    terms[r] = terms_of(a, first + own + r, head);
    keep[r] = W(1);
  }
  const TileBounds bounds = a.q_bounds[first / kTileRows];
  for_each_tile(
      ceil_div(a.in.k.rows, kTileRows), [&](std::int64_t tile) { return may_see(bounds, a.k_bounds[tile]); },
      [&](std::int64_t tile) {
        const std::int64_t first_key = tile * kTileRows;
        __syncthreads();
        load_rows(keys, stride, a.in.k, first_key, kTileRows, kv_col, dim, W(1));
        load_rows(values, stride, a.in.v, first_key, kTileRows, kv_col, dim, W(1));
        __syncthreads();
        W score[kRowsPerWarp], dprob[kRowsPerWarp];
        dot_rows(score, q + own * dim, keys, stride, dim);
        dot_rows(dprob, dout + own * dim, values, stride, dim);
        const RowPlace key = place_of(a.in.k_rows, first_key + lane_id(), a.in.k.rows);
        for (int r = 0; r < kRowsPerWarp; ++r)
          dscores[(own + r) * kTileRows + lane_id()] =
              differentiate(score[r], dprob[r], terms[r], sees(place[r], key)).dscore;
        __syncwarp();
        add_weighted_rows(sums + own * dim, keep, dscores + own * kTileRows, keys, stride, dim);
      });
  __syncthreads();
  for (int i = threadIdx.x; i < rows * dim; i += blockDim.x) {
    const std::int64_t query = first + i / dim;
    if (query >= a.in.q.rows) continue;
    T& dq = a.grad.dq.row(query)[col + i % dim];
    dq = (a.grad.dq_mode == Accumulate::kAdd ? W(dq) : W(0)) + scale * sums[i];
  }
}

/// Grid: blocks of keys x key/value heads. dk = sum over queries of dscore q (scaled), dv = sum of prob dout, over the
/// query heads of the group in order. Shared: k, v and both sums [rows, d]; q and dout [32, d + 1]; probabilities and
/// dscores [rows, 32].
template <class T>
__global__ void key_gradient_kernel(BackwardArguments<T> a) {
  using W = Wide<T>;
  const int dim = static_cast<int>(a.shape.head_dim), stride = dim + 1;
  const int rows = static_cast<int>(blockDim.x) / kWarp * kRowsPerWarp, own = warp_id() * kRowsPerWarp;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * rows, kv_head = blockIdx.y;
  const std::int64_t group = a.shape.num_heads / a.shape.num_kv_heads, kv_col = kv_head * dim;
  W *const keys = dynamic_shared<W>(), *const values = keys + rows * dim, *const dk = values + rows * dim,
           *const dv = dk + rows * dim, *const q = dv + rows * dim, *const dout = q + kTileRows * stride,
           *const probs = dout + kTileRows * stride, *const dscores = probs + rows * kTileRows;
  load_rows(keys, dim, a.in.k, first, rows, kv_col, dim, W(1));
  load_rows(values, dim, a.in.v, first, rows, kv_col, dim, W(1));
  for (int i = threadIdx.x; i < rows * dim; i += blockDim.x) dk[i] = dv[i] = W(0);
  RowPlace place[kRowsPerWarp];
  W keep[kRowsPerWarp];
  for (int r = 0; r < kRowsPerWarp; ++r) {
    place[r] = place_of(a.in.k_rows, first + own + r, a.in.k.rows);
    keep[r] = W(1);
  }
  const TileBounds bounds = a.k_bounds[first / kTileRows];
  for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
    for_each_tile(
        ceil_div(a.in.q.rows, kTileRows), [&](std::int64_t tile) { return may_see(a.q_bounds[tile], bounds); },
        [&](std::int64_t tile) {
          const std::int64_t first_query = tile * kTileRows;
          __syncthreads();
          load_rows(q, stride, a.in.q, first_query, kTileRows, head * dim, dim, static_cast<W>(a.shape.scale));
          load_rows(dout, stride, a.dout, first_query, kTileRows, head * dim, dim, W(1));
          __syncthreads();
          W score[kRowsPerWarp], dprob[kRowsPerWarp];
          dot_rows(score, keys + own * dim, q, stride, dim);
          dot_rows(dprob, values + own * dim, dout, stride, dim);
          const RowPlace query = place_of(a.in.q_rows, first_query + lane_id(), a.in.q.rows);
          const QueryTerms<W> terms = terms_of(a, first_query + lane_id(), head);
          for (int r = 0; r < kRowsPerWarp; ++r) {
            const auto pair = differentiate(score[r], dprob[r], terms, sees(query, place[r]));
            probs[(own + r) * kTileRows + lane_id()] = pair.prob;
            dscores[(own + r) * kTileRows + lane_id()] = pair.dscore;
          }
          __syncwarp();
          add_weighted_rows(dv + own * dim, keep, probs + own * kTileRows, dout, stride, dim);
          add_weighted_rows(dk + own * dim, keep, dscores + own * kTileRows, q, stride, dim);
        });
  __syncthreads();
  for (int i = threadIdx.x; i < rows * dim; i += blockDim.x) {
    const std::int64_t key = first + i / dim;
    if (key >= a.in.k.rows) continue;
    a.grad.dk.row(key)[kv_col + i % dim] = dk[i];
    a.grad.dv.row(key)[kv_col + i % dim] = dv[i];
  }
}

template <class T>
void attention_backward(Stream& stream, const AttentionGradients<T>& grad, Matrix<const T> dout, Matrix<const T> out,
                        Matrix<const Wide<T>> lse, const AttentionInputs<T>& in, const AttentionShape& shape) {
  const Bounds q_bounds(stream, in.q_rows, in.q.rows), k_bounds(stream, in.k_rows, in.k.rows);
  const weft::cuda::StreamScratch<Wide<T>> scratch(native(stream), in.q.rows * shape.num_heads);
  const Matrix<Wide<T>> delta(scratch.data(), in.q.rows, shape.num_heads);
  launch(stream, delta_kernel<T>, {ceil_div(delta.rows * delta.cols, kThreads / kWarp)}, delta, dout, out);
  if constexpr (std::is_same_v<T, BF16>)
    if (shape.head_dim <= kFlashDim)
      return flash_backward(stream, {grad, dout, lse, delta}, {in, shape, q_bounds.data(), k_bounds.data()});
  const BackwardArguments<T> arguments{grad, dout, lse, delta, in, shape, q_bounds.data(), k_bounds.data()};
  const BlockPlan queries = plan_block(stream.device(), shape.head_dim, sizeof(Wide<T>), 3, 2, 1);
  allow_shared(query_gradient_kernel<T>, queries);
  launch(stream, query_gradient_kernel<T>, queries.shape(in.q.rows, shape.num_heads), arguments);
  const BlockPlan keys = plan_block(stream.device(), shape.head_dim, sizeof(Wide<T>), 4, 2, 2);
  allow_shared(key_gradient_kernel<T>, keys);
  launch(stream, key_gradient_kernel<T>, keys.shape(in.k.rows, shape.num_kv_heads), arguments);
}

}  // namespace

template <class T>
void add_attention_backward(RowKernels<T>& table) {
  table.attention_backward = attention_backward<T>;
}

template void add_attention_backward(RowKernels<float>& table);
template void add_attention_backward(RowKernels<double>& table);
template void add_attention_backward(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
