// kernels/cuda/flash_forward.cu - attention on tensor cores, forward: a warp owns 16 queries of one head and meets the
// keys in tiles of 64, the next of which is on its way while one is used. Scores and sums are F32; probabilities are
// rounded to BF16 for their product with the values.
#include "kernels/cuda/flash.cuh"

namespace weft::kernels::cuda {
namespace {

constexpr int kKeys = 64, kBlocks = kKeys / 8;
constexpr float kLog2E = 1.44269504088896340736F, kLn2 = 0.69314718055994530942F;
constexpr float kNone = -std::numeric_limits<float>::infinity();

/// Over the four lanes that hold a row's elements.
__device__ float quad_sum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}
__device__ float quad_max(float value) {
  for (int step = 1; step <= 2; ++step) {
    const float other = __shfl_xor_sync(kAllLanes, value, step);
    value = other > value ? other : value;
  }
  return value;
}

/// The running softmax, base 2, of the two rows of a lane.
struct Softmax {
  float max[2] = {kNone, kNone}, sum[2] = {0.0F, 0.0F};

  /// Scores become probabilities over the new maximum; what was summed before is to be multiplied by rescale.
  __device__ void add(float (&score)[kBlocks][4], float (&rescale)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float largest = max[r];
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
        for (int i = 2 * r; i < 2 * r + 2; ++i) largest = score[b][i] > largest ? score[b][i] : largest;
      largest = quad_max(largest);
      const float shift = finite_or_zero(largest);
      rescale[r] = std::exp2(max[r] - shift);
      sum[r] *= rescale[r];
      max[r] = largest;
#pragma unroll
      for (int b = 0; b < kBlocks; ++b)
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          score[b][i] = std::exp2(score[b][i] - shift);
          sum[r] += score[b][i];
        }
    }
  }
};

template <int kDim>
__global__ void __launch_bounds__(kFlashWarps* kWarp)
    flash_forward_kernel(Matrix<BF16> out, Matrix<float> lse, FlashArguments a) {
  constexpr int kStride = kFlashStride<kDim>;
  BF16 *const queries = dynamic_shared<BF16>(), *const keys = queries + kFlashRows * kStride,
              *const values = keys + 2 * kKeys * kStride;  // of two tiles, as key_place
  auto* const key_place = reinterpret_cast<RowPlace*>(values + 2 * kKeys * kStride);
  const int dim = static_cast<int>(a.shape.head_dim), own = warp_id() * kFlashWarpRows;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kFlashRows, head = blockIdx.y;
  const std::int64_t col = head * dim, kv_col = head / (a.shape.num_heads / a.shape.num_kv_heads) * dim;
  const float scale = static_cast<float>(a.shape.scale) * kLog2E;
  load_tile<kDim>(queries, a.in.q, first, kFlashRows, col, dim);
  RowPlace place[2];
  for (int r = 0; r < 2; ++r) place[r] = place_of(a.in.q_rows, first + own + sum_row(2 * r), a.in.q.rows);

  Softmax softmax;
  float sum[kDim / 8][4] = {};
  const TileBounds* const q_bounds = a.q_bounds + first / kTileRows;
  const std::int64_t num_q = bounds_of(first, kFlashRows, a.in.q.rows);
  for_each_tile_ahead(
      ceil_div(a.in.k.rows, kKeys),
      [&](std::int64_t tile) {
        return any_sees(q_bounds, num_q, a.k_bounds + tile * (kKeys / kTileRows),
                        bounds_of(tile * kKeys, kKeys, a.in.k.rows));
      },
      [&](std::int64_t tile, int buffer) {
        const std::int64_t first_key = tile * kKeys;
        load_tile<kDim>(keys + buffer * kKeys * kStride, a.in.k, first_key, kKeys, kv_col, dim);
        load_tile<kDim>(values + buffer * kKeys * kStride, a.in.v, first_key, kKeys, kv_col, dim);
        const int row = static_cast<int>(threadIdx.x);
        if (row < kKeys) start_place(key_place + buffer * kKeys + row, a.in.k_rows, first_key + row, a.in.k.rows);
      },
      [&](std::int64_t, int buffer) {
        const RowPlace* const key = key_place + buffer * kKeys;
        float score[kBlocks][4] = {}, rescale[2];
        add_dots<kDim, kBlocks>(score, queries + own * kStride, keys + buffer * kKeys * kStride);
#pragma unroll
        for (int b = 0; b < kBlocks; ++b)
          for (int i = 0; i < 4; ++i)
            score[b][i] = sees(place[i / 2], key[sum_col(b, i)]) ? score[b][i] * scale : kNone;
        softmax.add(score, rescale);
#pragma unroll
        for (int b = 0; b < kDim / 8; ++b)
          for (int i = 0; i < 4; ++i) sum[b][i] *= rescale[i / 2];
        add_products<kDim, kBlocks>(sum, LeftSide<kBlocks>(score), values + buffer * kKeys * kStride);
      });

  for (int r = 0; r < 2; ++r) {
    const float total = quad_sum(softmax.sum[r]);
    if (!place[r].valid) continue;
    const bool blind = softmax.max[r] == kNone && total == 0.0F;
    const float inverse = blind ? 0.0F : 1.0F / total;
    const std::int64_t query = first + own + sum_row(2 * r);
    for (int b = 0; b < kDim / 8; ++b)
      for (int i = 2 * r; i < 2 * r + 2; ++i)
        if (const int c = sum_col(b, i); c < dim) out.row(query)[col + c] = sum[b][i] * inverse;
    if (lane_id() % 4 == 0)
      lse.row(query)[head] = blind ? kNone : kLn2 * (finite_or_zero(softmax.max[r]) + std::log2(total));
  }
}

}  // namespace

void flash_forward(Stream& stream, Matrix<BF16> out, Matrix<float> lse, const FlashArguments& a) {
  const auto run = [&]<int kDim>() {
    launch_flash<kDim>(stream, flash_forward_kernel<kDim>, a.in.q.rows, a.shape.num_heads, kFlashRows + 4 * kKeys, out,
                       lse, a);
  };
  if (a.shape.head_dim <= kFlashDim / 2)
    run.template operator()<kFlashDim / 2>();
  else
    run.template operator()<kFlashDim>();
}

}  // namespace weft::kernels::cuda
