// kernels/cuda/embedding.cu - the backward sorts (id, row) and lets one block add up the rows of an id in order, so
// that no two threads meet at an element.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/sort.h"
#include "kernels/cuda/vectors.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T, int N>
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
  if (!add && !bad_id) return copy_row<N>(out, token_table.row(id), x.cols);
  for_vectors<N>(x.cols, [&](auto n, std::int64_t j) {
    Vector<T, n> v{};
    if (!bad_id) v = load_vector<n>(token_table.row(id) + j);
    if (add && !bad_place) {
      const Vector<T, n> p = load_vector<n>(position_table.row(place) + j);
#pragma unroll
      for (int e = 0; e < n; ++e) v.of[e] = v.of[e] + p.of[e];
    }
    store_vector<n>(out + j, v);
  });
}

/// keys[t] = (id, t), for ids out of range kNoKey.
__global__ void make_keys_kernel(std::uint64_t* keys, const std::int32_t* id, std::int64_t rows,
                                 std::int64_t table_rows, std::uint64_t* fault) {
  const std::int64_t t = global_thread();
  if (t >= rows) return;
  const bool there = id[t] >= 0 && id[t] < table_rows;
  if (!there) report(fault, FaultSite::kEmbeddingId, t, id[t]);
  keys[t] = there ? static_cast<std::uint64_t>(id[t]) << kIdShift | static_cast<std::uint64_t>(t) : kNoKey;
}

/// A block per key; the first key of an id adds all of its rows, in order.
template <class T, int N>
__global__ void add_rows_of_ids_kernel(Matrix<Wide<T>> d_table, const std::uint64_t* keys, Matrix<const T> dx) {
  const std::int64_t first = blockIdx.x;
  const std::uint64_t key = keys[first], id = key >> kIdShift;
  if (key == kNoKey || (first > 0 && keys[first - 1] >> kIdShift == id)) return;
  Wide<T>* to = d_table.row(static_cast<std::int64_t>(id));
  for_vectors<N>(dx.cols, [&](auto n, std::int64_t j) {
    Wide<T> sum[n];
#pragma unroll
    for (int e = 0; e < n; ++e) sum[e] = to[j + e];
    for (std::int64_t i = first; i < dx.rows && keys[i] >> kIdShift == id; ++i) {
      const Vector<T, n> v = load_vector<n>(dx.row(static_cast<std::int64_t>(keys[i] & 0xffffffffU)) + j);
#pragma unroll
      for (int e = 0; e < n; ++e) sum[e] += v.of[e];
    }
#pragma unroll
    for (int e = 0; e < n; ++e) to[j + e] = sum[e];
  });
}

template <class T>
void embedding_forward(Stream& stream, Matrix<T> x, Matrix<const T> token_table, const std::int32_t* token,
                       Matrix<const T> position_table, const std::int32_t* position) {
  by_width<T>(
      [&](auto n) {
        launch(stream, embedding_forward_kernel<T, n>, per_row_of_vectors<n>(x.rows, x.cols, kUnderWay), x, token_table,
               token, position_table, position, fault_word(stream));
      },
      x, token_table, position_table);
}

template <class T>
void embedding_backward(Stream& stream, Matrix<Wide<T>> d_table, const std::int32_t* id, Matrix<const T> dx,
                        Accumulate accumulate) {
  if (accumulate == Accumulate::kOverwrite && d_table.rows > 0 && d_table.cols > 0)
    WEFT_CUDA_CHECK(cudaMemset2DAsync(d_table.data, static_cast<std::size_t>(d_table.stride) * sizeof(Wide<T>), 0,
                                      static_cast<std::size_t>(d_table.cols) * sizeof(Wide<T>),
                                      static_cast<std::size_t>(d_table.rows), native(stream)));
  if (dx.rows == 0) return;
  const weft::cuda::StreamScratch<std::uint64_t> keys(native(stream), dx.rows), sorted(native(stream), dx.rows);
  launch(stream, make_keys_kernel, per_element(dx.rows), keys.data(), id, dx.rows, d_table.rows, fault_word(stream));
  sort_by_id(stream, sorted.data(), keys.data(), dx.rows, d_table.rows);
  by_width<T>(
      [&](auto n) {
        launch(stream, add_rows_of_ids_kernel<T, n>, per_row_of_vectors<n>(dx.rows, dx.cols, 1), d_table, sorted.data(),
               dx);
      },
      dx);
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
