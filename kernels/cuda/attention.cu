// kernels/cuda/attention.cu - FlashAttention-2's forward without tensor cores (F32, F64, wide heads), and the merge of
// partial results.
#include "kernels/cuda/attention_tiles.cuh"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/flash.cuh"

namespace weft::kernels::cuda {

__global__ void bound_tiles_kernel(TileBounds* bounds, AttentionRows rows, std::int64_t num_rows) {
  const std::int64_t tile = global_thread(), first = tile * kTileRows;
  if (first >= num_rows) return;
  TileBounds b{rows.segment[first], rows.segment[first], rows.position[first], rows.position[first]};
  for (std::int64_t t = first; t < first + kTileRows && t < num_rows; ++t) {
    const std::int32_t segment = rows.segment[t], position = rows.position[t];
    b.min_segment = segment < b.min_segment ? segment : b.min_segment;
    b.max_segment = segment > b.max_segment ? segment : b.max_segment;
    b.min_position = position < b.min_position ? position : b.min_position;
    b.max_position = position > b.max_position ? position : b.max_position;
  }
  bounds[tile] = b;
}

Bounds::Bounds(Stream& stream, AttentionRows rows, std::int64_t num_rows)
    : scratch_(native(stream), ceil_div(num_rows, kTileRows)) {
  launch(stream, bound_tiles_kernel, per_element(ceil_div(num_rows, kTileRows)), scratch_.data(), rows, num_rows);
}

BlockPlan plan_block(Device device, std::int64_t dim, std::int64_t element_bytes, int own, int other, int scores) {
  int limit = 0;
  WEFT_CUDA_CHECK(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index));
  constexpr std::int64_t kStaticBytes = 1024;  // for_each_tile's, and what the system keeps of every block
  for (int warps = kMaxWarps; warps > 0; warps /= 2) {
    const std::int64_t rows = std::int64_t{warps} * kRowsPerWarp;
    const std::int64_t bytes =
        element_bytes * (own * rows * dim + other * kTileRows * (dim + 1) + scores * rows * kTileRows);
    if (bytes + kStaticBytes <= limit) return {warps, bytes};
  }
  throw Error(ErrorCode::kInvalidArgument,
              str("attention: heads of width ", dim, " do not fit the ", limit, " bytes of shared memory of this GPU"),
              "use more heads, each narrower");
}

namespace {

template <class T>
inline constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();

/// The running softmax of a warp's queries. Each lane has its own share of the sums.
template <class T>
struct RunningSoftmax {
  T max[kRowsPerWarp], sum[kRowsPerWarp], rescale[kRowsPerWarp];

  __device__ RunningSoftmax() {
    for (int r = 0; r < kRowsPerWarp; ++r) {
      max[r] = kMinusInfinity<T>;
      sum[r] = T(0);
    }
  }
  /// probs[r, lane] = exp(score - new maximum); what was summed before is to be multiplied by rescale[r].
  __device__ void add(const T* score, T* probs) {
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
      const T largest = warp_max(score[r]), new_max = largest > max[r] ? largest : max[r];
      const T shift = finite_or_zero(new_max), p = std::exp(score[r] - shift);
      rescale[r] = std::exp(max[r] - shift);
      sum[r] = sum[r] * rescale[r] + p;
      max[r] = new_max;
      probs[r * kTileRows + lane_id()] = p;
    }
  }
};

template <class T>
struct ForwardArguments {
  Matrix<T> out;
  Matrix<Wide<T>> lse;
  AttentionInputs<T> in;
  AttentionShape shape;
  const TileBounds *q_bounds, *k_bounds;
};

/// Grid: blocks of queries x heads. Shared: queries and their outputs [rows, d], one tile of keys, then values,
/// [32, d + 1], probabilities [rows, 32].
template <class T>
__global__ void attention_forward_kernel(ForwardArguments<T> a) {
  using W = Wide<T>;
  const int dim = static_cast<int>(a.shape.head_dim), stride = dim + 1;
  const int rows = static_cast<int>(blockDim.x) / kWarp * kRowsPerWarp, own = warp_id() * kRowsPerWarp;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * rows, head = blockIdx.y;
  const std::int64_t col = head * dim, kv_col = head / (a.shape.num_heads / a.shape.num_kv_heads) * dim;
  W *const queries = dynamic_shared<W>(), *const outs = queries + rows * dim, *const tile_rows = outs + rows * dim,
           *const probs = tile_rows + kTileRows * stride;
  load_rows(queries, dim, a.in.q, first, rows, col, dim, static_cast<W>(a.shape.scale));
  for (int i = threadIdx.x; i < rows * dim; i += blockDim.x) outs[i] = W(0);
  RowPlace place[kRowsPerWarp];
  for (int r = 0; r < kRowsPerWarp; ++r) place[r] = place_of(a.in.q_rows, first + own + r, a.in.q.rows);
  RunningSoftmax<W> softmax;
  const TileBounds bounds = a.q_bounds[first / kTileRows];
  for_each_tile(
      ceil_div(a.in.k.rows, kTileRows), [&](std::int64_t tile) { return may_see(bounds, a.k_bounds[tile]); },
      [&](std::int64_t tile) {
        const std::int64_t first_key = tile * kTileRows;
        __syncthreads();  // the last tile's values have been read
        load_rows(tile_rows, stride, a.in.k, first_key, kTileRows, kv_col, dim, W(1));
        __syncthreads();
        W score[kRowsPerWarp];
        dot_rows(score, queries + own * dim, tile_rows, stride, dim);
        const RowPlace key = place_of(a.in.k_rows, first_key + lane_id(), a.in.k.rows);
        for (int r = 0; r < kRowsPerWarp; ++r) score[r] = sees(place[r], key) ? score[r] : kMinusInfinity<W>;
        softmax.add(score, probs + own * kTileRows);
        __syncthreads();  // all warps are done with the keys
        load_rows(tile_rows, stride, a.in.v, first_key, kTileRows, kv_col, dim, W(1));
        __syncthreads();
        add_weighted_rows(outs + own * dim, softmax.rescale, probs + own * kTileRows, tile_rows, stride, dim);
      });
  __syncthreads();  // without any tile, other warps may still be setting these outputs to zero
  for (int r = 0; r < kRowsPerWarp; ++r) {
    const W sum = warp_sum(softmax.sum[r]);
    if (!place[r].valid) continue;
    const bool blind = softmax.max[r] == kMinusInfinity<W> && sum == W(0);
    const W inverse = blind ? W(0) : W(1) / sum;
    const std::int64_t query = first + own + r;
    for (int c = lane_id(); c < dim; c += kWarp) a.out.row(query)[col + c] = outs[(own + r) * dim + c] * inverse;
    if (lane_id() == 0)
      a.lse.row(query)[head] = blind ? kMinusInfinity<W> : finite_or_zero(softmax.max[r]) + std::log(sum);
  }
}

template <class T>
void attention_forward(Stream& stream, Matrix<T> out, Matrix<Wide<T>> lse, const AttentionInputs<T>& in,
                       const AttentionShape& shape) {
  const Bounds q_bounds(stream, in.q_rows, in.q.rows), k_bounds(stream, in.k_rows, in.k.rows);
  if constexpr (std::is_same_v<T, BF16>)
    if (shape.head_dim <= kFlashDim)
      return flash_forward(stream, out, lse, {in, shape, q_bounds.data(), k_bounds.data()});
  const BlockPlan plan = plan_block(stream.device(), shape.head_dim, sizeof(Wide<T>), 2, 1, 1);
  allow_shared(attention_forward_kernel<T>, plan);
  launch(stream, attention_forward_kernel<T>, plan.shape(in.q.rows, shape.num_heads),
         ForwardArguments<T>{out, lse, in, shape, q_bounds.data(), k_bounds.data()});
}

/// A block per (row, head).
template <class T>
__global__ void attention_merge_kernel(Matrix<Wide<T>> out, Matrix<Wide<T>> lse, Matrix<const T> part_out,
                                       Matrix<const Wide<T>> part_lse) {
  using W = Wide<T>;
  const std::int64_t t = blockIdx.x, h = blockIdx.y, dim = out.cols / lse.cols;
  const W whole = lse.row(t)[h], part = part_lse.row(t)[h];
  __syncthreads();                        // all have read what one of them will write
  if (part == kMinusInfinity<W>) return;  // saw no key; the other may not have either
  W* to = out.row(t) + h * dim;
  const T* from = part_out.row(t) + h * dim;
  const bool first = whole == kMinusInfinity<W>;
  const W larger = whole > part ? whole : part;
  const W joined = first ? part : larger + std::log1p(std::exp(-std::abs(whole - part)));
  const W keep = std::exp(whole - joined), add = std::exp(part - joined);
  for (std::int64_t j = threadIdx.x; j < dim; j += blockDim.x)
    to[j] = first ? static_cast<W>(from[j]) : keep * to[j] + add * from[j];
  if (threadIdx.x == 0) lse.row(t)[h] = joined;
}

template <class T>
void attention_merge(Stream& stream, Matrix<Wide<T>> out, Matrix<Wide<T>> lse, Matrix<const T> part_out,
                     Matrix<const Wide<T>> part_lse) {
  Shape shape = per_row(out.rows, out.cols / lse.cols);
  shape.blocks_y = lse.cols;
  launch(stream, attention_merge_kernel<T>, shape, out, lse, part_out, part_lse);
}

}  // namespace

template <class T>
void add_attention(RowKernels<T>& table) {
  table.attention_forward = attention_forward<T>;
  table.attention_merge = attention_merge<T>;
}

template void add_attention(RowKernels<float>& table);
template void add_attention(RowKernels<double>& table);
template void add_attention(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
