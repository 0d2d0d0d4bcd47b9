// kernels/cuda/embedding.cu - the backward sorts (id, row) and lets one block add up the rows of an id in order, so
// that no two threads meet at an element. The sort is Batcher's bitonic network ("Sorting networks and their
// applications", 1968): keys are distinct, so any sort gives the same order.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T>
__global__ void embedding_forward_kernel(Matrix<T> x, Matrix<const T> token_table, const std::int32_t* token,
                                         Matrix<const T> position_table, const std::int32_t* position,
                                         std::uint64_t* fault) {
  const std::int32_t id = token[blockIdx.x];
  const bool add = position_table.data != nullptr;
  const std::int32_t place = add ? position[blockIdx.x] : 0;
  const bool bad_id = id < 0 || id >= token_table.rows, bad_place = add && (place < 0 || place >= position_table.rows);
  if (threadIdx.x == 0 && bad_id) report(fault, FaultSite::kToken, blockIdx.x, id);
  if (threadIdx.x == 0 && bad_place) report(fault, FaultSite::kPosition, blockIdx.x, place);
  T* out = x.row(blockIdx.x);
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) {
    const T value = bad_id ? T(0) : token_table.row(id)[j];
    out[j] = add && !bad_place ? T(value + position_table.row(place)[j]) : value;
  }
}

constexpr std::uint64_t kNoKey = ~std::uint64_t{0};
constexpr std::int64_t kTileKeys = 1024;  // sorted in shared memory by half as many threads

/// keys[t] = (id, t), for t past the rows and ids out of range kNoKey, which sorts last.
__global__ void make_keys_kernel(std::uint64_t* keys, std::int64_t size, const std::int32_t* id, std::int64_t rows,
                                 std::int64_t table_rows, std::uint64_t* fault) {
  const std::int64_t t = global_thread();
  if (t >= size) return;
  keys[t] = kNoKey;
  if (t >= rows) return;
  if (id[t] < 0 || id[t] >= table_rows)
    report(fault, FaultSite::kEmbeddingId, t, id[t]);
  else
    keys[t] = static_cast<std::uint64_t>(id[t]) << 32 | static_cast<std::uint64_t>(t);
}

/// Compares the p-th pair of elements `distance` apart (a power of two), and puts it in the order of its run of `run`
/// elements: runs ascend and descend in turn. `first`: the number of keys[0] in the whole array.
__device__ void order_pair(std::uint64_t* keys, std::int64_t p, std::int64_t distance, std::int64_t run,
                           std::int64_t first) {
  const std::int64_t i = ((p & ~(distance - 1)) << 1) | (p & (distance - 1)), j = i + distance;
  const std::uint64_t a = keys[i], b = keys[j];
  const bool ascending = ((first + i) & run) == 0;
  if ((a > b) == ascending) {
    keys[i] = b;
    keys[j] = a;
  }
}

__global__ void order_pairs_kernel(std::uint64_t* keys, std::int64_t num_pairs, std::int64_t distance,
                                   std::int64_t run) {
  if (const std::int64_t p = global_thread(); p < num_pairs) order_pair(keys, p, distance, run, 0);
}

/// The steps with distances inside a tile, for runs of first_run, 2 first_run, ... last_run elements.
__global__ void order_tiles_kernel(std::uint64_t* keys, std::int64_t size, std::int64_t first_run,
                                   std::int64_t last_run) {
  __shared__ std::uint64_t tile[kTileKeys];
  const std::int64_t first = blockIdx.x * kTileKeys, count = size < kTileKeys ? size : kTileKeys;
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) tile[i] = keys[first + i];
  for (std::int64_t run = first_run; run <= last_run; run *= 2)
    for (std::int64_t distance = (run < count ? run : count) / 2; distance > 0; distance /= 2) {
      __syncthreads();
      if (threadIdx.x < count / 2) order_pair(tile, threadIdx.x, distance, run, first);
    }
  __syncthreads();
  for (std::int64_t i = threadIdx.x; i < count; i += blockDim.x) keys[first + i] = tile[i];
}

/// Sorts `size` keys, a power of two.
void sort_keys(Stream& stream, std::uint64_t* keys, std::int64_t size) {
  const Shape tiles{ceil_div(size, kTileKeys), 1, static_cast<int>(kTileKeys / 2)};
  launch(stream, order_tiles_kernel, tiles, keys, size, std::int64_t{2}, std::min(size, kTileKeys));
  for (std::int64_t run = 2 * kTileKeys; run <= size; run *= 2) {
    for (std::int64_t distance = run / 2; distance >= kTileKeys; distance /= 2)
      launch(stream, order_pairs_kernel, per_element(size / 2), keys, size / 2, distance, run);
    launch(stream, order_tiles_kernel, tiles, keys, size, run, run);
  }
}

/// A block per key; the first key of an id adds all of its rows, in order.
template <class T>
__global__ void add_rows_of_ids_kernel(Matrix<Wide<T>> d_table, const std::uint64_t* keys, Matrix<const T> dx) {
  const std::int64_t first = blockIdx.x;
  const std::uint64_t key = keys[first], id = key >> 32;
  if (key == kNoKey || (first > 0 && keys[first - 1] >> 32 == id)) return;
  for (std::int64_t j = threadIdx.x; j < dx.cols; j += blockDim.x) {
    Wide<T> sum = d_table.row(static_cast<std::int64_t>(id))[j];
    for (std::int64_t i = first; i < dx.rows && keys[i] >> 32 == id; ++i)
      sum += dx.row(static_cast<std::int64_t>(keys[i] & 0xffffffffU))[j];
    d_table.row(static_cast<std::int64_t>(id))[j] = sum;
  }
}

template <class T>
void embedding_forward(Stream& stream, Matrix<T> x, Matrix<const T> token_table, const std::int32_t* token,
                       Matrix<const T> position_table, const std::int32_t* position) {
  launch(stream, embedding_forward_kernel<T>, per_row(x.rows, x.cols), x, token_table, token, position_table, position,
         fault_word(stream));
}

template <class T>
void embedding_backward(Stream& stream, Matrix<Wide<T>> d_table, const std::int32_t* id, Matrix<const T> dx,
                        Accumulate accumulate) {
  if (accumulate == Accumulate::kOverwrite && d_table.rows > 0 && d_table.cols > 0)
    WEFT_CUDA_CHECK(cudaMemset2DAsync(d_table.data, static_cast<std::size_t>(d_table.stride) * sizeof(Wide<T>), 0,
                                      static_cast<std::size_t>(d_table.cols) * sizeof(Wide<T>),
                                      static_cast<std::size_t>(d_table.rows), native(stream)));
  if (dx.rows == 0) return;
  std::int64_t size = 1;
  while (size < dx.rows) size *= 2;
  const weft::cuda::StreamScratch<std::uint64_t> keys(native(stream), size);
  launch(stream, make_keys_kernel, per_element(size), keys.data(), size, id, dx.rows, d_table.rows, fault_word(stream));
  sort_keys(stream, keys.data(), size);
  launch(stream, add_rows_of_ids_kernel<T>, per_row(dx.rows, dx.cols), d_table, keys.data(), dx);
}

}  // namespace

template <class T>
void add_embedding(RowKernels<T>& table) {
  table.embedding_forward = embedding_forward<T>;
  table.embedding_backward = embedding_backward<T>;
}

template void add_embedding(RowKernels<float>& table);
template void add_embedding(RowKernels<double>& table);
template void add_embedding(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
