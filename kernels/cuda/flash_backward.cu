// kernels/cuda/flash_backward.cu - attention on tensor cores, backward: one kernel whose warps own queries (dq) and one
// whose warps own keys (dk, dv), so that no two blocks add to one element. Probabilities and their gradients are
// rounded to BF16 for their products; all sums are F32.
#include "kernels/cuda/flash.cuh"

namespace weft::kernels::cuda {
namespace {

constexpr int kOther = 32, kBlocks = kOther / 8;  // rows of the other side in a tile
constexpr float kLog2E = 1.44269504088896340736F;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// What the scores of a query need.
struct QueryTerms {
  float lse = -kInfinity, delta = 0.0F;
  /// To the base 2; +infinity where the query saw nothing: 2^(score - infinity) = 0.
  [[nodiscard]] __device__ float shift() const { return lse == -kInfinity ? kInfinity : lse * kLog2E; }
};
__device__ QueryTerms terms_of(const FlashGradient& g, std::int64_t query, std::int64_t head) {
  if (query >= g.lse.rows) return {};
  return {g.lse.row(query)[head], g.delta.row(query)[head]};
}

/// Starts to copy them. By one thread.
__device__ void start_terms(QueryTerms* to, const FlashGradient& g, std::int64_t query, std::int64_t head) {
  if (query >= g.lse.rows) return;  // not seen: never used
  start_copy<4>(&to->lse, g.lse.row(query) + head);
  start_copy<4>(&to->delta, g.delta.row(query) + head);
}

/// score becomes the probability, dprob the gradient of the score before its factor.
__device__ void differentiate(float& score, float& dprob, float scale, const QueryTerms& query, bool seen) {
  score = seen ? std::exp2(score * scale - query.shift()) : 0.0F;
  dprob = seen ? score * (dprob - query.delta) : 0.0F;
}

/// to[row, first_col ...] = factor * sum (+ what is there).
template <int kDim>
__device__ void store(Matrix<BF16> to, std::int64_t first_row, std::int64_t first_col, int dim, float factor,
                      const float (&sum)[kDim / 8][4], bool add) {
  for (int b = 0; b < kDim / 8; ++b)
    for (int i = 0; i < 4; ++i) {
      const std::int64_t row = first_row + sum_row(i);
      const int c = sum_col(b, i);
      if (row >= to.rows || c >= dim) continue;
      BF16& element = to.row(row)[first_col + c];
      element = factor * sum[b][i] + (add ? static_cast<float>(element) : 0.0F);
    }
}

template <int kDim>
__global__ void __launch_bounds__(kFlashWarps* kWarp) flash_query_kernel(FlashGradient g, FlashArguments a) {
  constexpr int kStride = kFlashStride<kDim>;
  BF16 *const queries = dynamic_shared<BF16>(), *const dout = queries + kFlashRows * kStride,
              *const keys = dout + kFlashRows * kStride, *const values = keys + 2 * kOther * kStride;
  auto* const key_place = reinterpret_cast<RowPlace*>(values + 2 * kOther * kStride);
  const int dim = static_cast<int>(a.shape.head_dim), own = warp_id() * kFlashWarpRows;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kFlashRows, head = blockIdx.y;
  const std::int64_t col = head * dim, kv_col = head / (a.shape.num_heads / a.shape.num_kv_heads) * dim;
  const float scale = static_cast<float>(a.shape.scale);
  load_tile<kDim>(queries, a.in.q, first, kFlashRows, col, dim);
  load_tile<kDim>(dout, g.dout, first, kFlashRows, col, dim);
  RowPlace place[2];
  QueryTerms terms[2];
  for (int r = 0; r < 2; ++r) {
    const std::int64_t query = first + own + sum_row(2 * r);
    place[r] = place_of(a.in.q_rows, query, a.in.q.rows);
    terms[r] = terms_of(g, query, head);
  }
  float dq[kDim / 8][4] = {};
  const TileBounds* const q_bounds = a.q_bounds + first / kTileRows;
  const std::int64_t num_q = bounds_of(first, kFlashRows, a.in.q.rows);
  for_each_tile_ahead(
      ceil_div(a.in.k.rows, kOther),
      [&](std::int64_t tile) { return any_sees(q_bounds, num_q, a.k_bounds + tile * (kOther / kTileRows), 1); },
      [&](std::int64_t tile, int buffer) {
        const std::int64_t first_key = tile * kOther;
        load_tile<kDim>(keys + buffer * kOther * kStride, a.in.k, first_key, kOther, kv_col, dim);
        load_tile<kDim>(values + buffer * kOther * kStride, a.in.v, first_key, kOther, kv_col, dim);
        const int row = static_cast<int>(threadIdx.x);
        if (row < kOther) start_place(key_place + buffer * kOther + row, a.in.k_rows, first_key + row, a.in.k.rows);
      },
      [&](std::int64_t, int buffer) {
        const RowPlace* const key = key_place + buffer * kOther;
        const BF16* const tile_keys = keys + buffer * kOther * kStride;
        float score[kBlocks][4] = {}, dscore[kBlocks][4] = {};
        add_dots<kDim, kBlocks>(score, queries + own * kStride, tile_keys);
        add_dots<kDim, kBlocks>(dscore, dout + own * kStride, values + buffer * kOther * kStride);
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
          for (int i = 0; i < 4; ++i)
            differentiate(score[b][i], dscore[b][i], scale * kLog2E, terms[i / 2],
                          sees(place[i / 2], key[sum_col(b, i)]));
        add_products<kDim, kBlocks>(dq, LeftSide<kBlocks>(dscore), tile_keys);
      });
  store<kDim>(g.grad.dq, first + own, col, dim, scale, dq, g.grad.dq_mode == Accumulate::kAdd);
}

template <int kDim>
__global__ void __launch_bounds__(kFlashWarps* kWarp) flash_key_kernel(FlashGradient g, FlashArguments a) {
  constexpr int kStride = kFlashStride<kDim>;
  BF16 *const keys = dynamic_shared<BF16>(), *const values = keys + kFlashRows * kStride,
              *const queries = values + kFlashRows * kStride, *const dout = queries + 2 * kOther * kStride;
  auto* const query_place = reinterpret_cast<RowPlace*>(dout + 2 * kOther * kStride);
  auto* const query_terms = reinterpret_cast<QueryTerms*>(query_place + 2 * kOther);
  const int dim = static_cast<int>(a.shape.head_dim), own = warp_id() * kFlashWarpRows;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kFlashRows, kv_head = blockIdx.y;
  const std::int64_t group = a.shape.num_heads / a.shape.num_kv_heads, kv_col = kv_head * dim;
  const float scale = static_cast<float>(a.shape.scale);
  load_tile<kDim>(keys, a.in.k, first, kFlashRows, kv_col, dim);
  load_tile<kDim>(values, a.in.v, first, kFlashRows, kv_col, dim);
  RowPlace place[2];
  for (int r = 0; r < 2; ++r) place[r] = place_of(a.in.k_rows, first + own + sum_row(2 * r), a.in.k.rows);
  float dk[kDim / 8][4] = {}, dv[kDim / 8][4] = {};
  const TileBounds* const k_bounds = a.k_bounds + first / kTileRows;
  const std::int64_t num_k = bounds_of(first, kFlashRows, a.in.k.rows);
  for (std::int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head)
    for_each_tile_ahead(
        ceil_div(a.in.q.rows, kOther),
        [&](std::int64_t tile) { return any_sees(a.q_bounds + tile * (kOther / kTileRows), 1, k_bounds, num_k); },
        [&](std::int64_t tile, int buffer) {
          const std::int64_t first_query = tile * kOther;
          load_tile<kDim>(queries + buffer * kOther * kStride, a.in.q, first_query, kOther, head * dim, dim);
          load_tile<kDim>(dout + buffer * kOther * kStride, g.dout, first_query, kOther, head * dim, dim);
          const int row = static_cast<int>(threadIdx.x), place_in_buffers = buffer * kOther + row;
          if (row >= kOther) return;
          start_place(query_place + place_in_buffers, a.in.q_rows, first_query + row, a.in.q.rows);
          start_terms(query_terms + place_in_buffers, g, first_query + row, head);
        },
        [&](std::int64_t, int buffer) {
          const BF16 *const tile_queries = queries + buffer * kOther * kStride, *const tile_dout =
                                                                                    dout + buffer * kOther * kStride;
          float prob[kBlocks][4] = {}, dscore[kBlocks][4] = {};  // [keys, queries]
          add_dots<kDim, kBlocks>(prob, keys + own * kStride, tile_queries);
          add_dots<kDim, kBlocks>(dscore, values + own * kStride, tile_dout);
#pragma unroll
          for (int b = 0; b < kBlocks; ++b)
            for (int i = 0; i < 4; ++i) {
              const int query = buffer * kOther + sum_col(b, i);
              differentiate(prob[b][i], dscore[b][i], scale * kLog2E, query_terms[query],
                            sees(query_place[query], place[i / 2]));
            }
          add_products<kDim, kBlocks>(dv, LeftSide<kBlocks>(prob), tile_dout);
          add_products<kDim, kBlocks>(dk, LeftSide<kBlocks>(dscore), tile_queries);
        });
  store<kDim>(g.grad.dk, first + own, kv_col, dim, scale, dk, false);
  store<kDim>(g.grad.dv, first + own, kv_col, dim, 1.0F, dv, false);
}

}  // namespace

void flash_backward(Stream& stream, const FlashGradient& g, const FlashArguments& a) {
  constexpr std::int64_t kTiles = 2 * kFlashRows + 4 * kOther;
  const auto run = [&]<int kDim>() {
    launch_flash<kDim>(stream, flash_query_kernel<kDim>, a.in.q.rows, a.shape.num_heads, kTiles, g, a);
    launch_flash<kDim>(stream, flash_key_kernel<kDim>, a.in.k.rows, a.shape.num_kv_heads, kTiles, g, a);
  };
  if (a.shape.head_dim <= kFlashDim / 2)
    run.template operator()<kFlashDim / 2>();
  else
    run.template operator()<kFlashDim>();
}

}  // namespace weft::kernels::cuda
