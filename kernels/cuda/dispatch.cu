// kernels/cuda/dispatch.cu - a block per expert goes through the table: the order of its entries is that of the table,
// whatever the others do.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/vectors.cuh"

namespace weft::kernels::cuda {
namespace {

/// The expert that entry i of the table names.
__device__ std::int32_t expert_of(Matrix<const std::int32_t> expert, std::int64_t i) {
  const std::int64_t k = i % expert.cols;
  return expert.data != nullptr ? expert.row(i / expert.cols)[k] : static_cast<std::int32_t>(k);
}

/// A block per expert e: out[e / local * rank_stride + e % local] = entries that name it.
__global__ void count_entries_kernel(std::int64_t* out, Matrix<const std::int32_t> expert, std::int64_t local,
                                     std::int64_t rank_stride) {
  const std::int64_t e = blockIdx.x;
  std::int64_t count = 0;
  for (std::int64_t i = threadIdx.x; i < expert.rows * expert.cols; i += blockDim.x)
    if (expert_of(expert, i) == e) ++count;
  count = block_sum(count);
  if (threadIdx.x == 0) out[e / local * rank_stride + e % local] = count;
}

/// A block per expert, and one for the entries that go nowhere. count: [E].
__global__ void place_entries_kernel(RowPlaces out, Matrix<const std::int32_t> expert,
                                     Matrix<const std::int32_t> source, const std::int64_t* count,
                                     std::int64_t num_experts) {
  const std::int64_t e = blockIdx.x, entries = expert.rows * expert.cols;
  const bool nowhere = e == num_experts;
  std::int64_t before = 0;
  for (std::int64_t i = threadIdx.x; i < e; i += blockDim.x) before += count[i];
  std::int64_t next = block_sum(before);
  for (std::int64_t first = 0; first < entries; first += blockDim.x) {
    const std::int64_t i = first + threadIdx.x;
    const std::int32_t named = i < entries ? expert_of(expert, i) : -1;
    const bool mine = i < entries && (nowhere ? named < 0 : named == e);
    int total = 0;
    const int rank = block_rank(mine, total);
    if (mine) {
      const std::int64_t t = i / expert.cols, k = i % expert.cols, at = next + rank;
      out.row.row(t)[k] = nowhere ? -1 : static_cast<std::int32_t>(at);
      if (!nowhere)
        out.token[at] = source.data != nullptr ? source.row(t)[k] : static_cast<std::int32_t>(out.first_token + t);
    }
    next += total;
  }
}

void count_rows(Stream& stream, const RowCounts& counts, Matrix<const std::int32_t> expert,
                std::span<const std::int64_t> cuts) {
  const std::int64_t local = counts.num_local_experts, pieces = static_cast<std::int64_t>(cuts.size()) - 1;
  for (std::int64_t p = 0; p < pieces; ++p) {
    const std::int64_t first = cuts[static_cast<std::size_t>(p)], end = cuts[static_cast<std::size_t>(p) + 1];
    launch(stream, count_entries_kernel, {counts.num_experts}, counts.data + p * local,
           expert.row_range(first, end - first), local, pieces * local);
  }
}

void place_rows(Stream& stream, const RowPlaces& out, Matrix<const std::int32_t> expert,
                Matrix<const std::int32_t> source, std::int64_t num_experts) {
  const Matrix<const std::int32_t> named(expert.data, out.row.rows, out.row.cols,
                                         expert.data != nullptr ? expert.stride : out.row.cols);
  const weft::cuda::StreamScratch<std::int64_t> count(native(stream), num_experts);
  launch(stream, count_entries_kernel, {num_experts}, count.data(), named, num_experts, num_experts);
  launch(stream, place_entries_kernel, {num_experts + 1}, out, named, source, count.data(), num_experts);
}

/// Some of the blocks, as an argument of the kernel: nothing has to outlive the call.
constexpr std::size_t kMaxBlocks = 64;
struct RowBlocks {
  RowBlock of[kMaxBlocks];
};
constexpr std::int64_t kRowsOfBlock = 4;

template <class T, int N>
__global__ void copy_blocks_kernel(Matrix<T> out, Matrix<const T> in, RowBlocks blocks) {
  const RowBlock& b = blocks.of[blockIdx.y];
  const std::int64_t first = blockIdx.x * kRowsOfBlock;
  for (std::int64_t i = first; i < first + kRowsOfBlock && i < b.count; ++i)
    copy_row<N>(out.row(b.to + i), in.row(b.from + i), out.cols);
}

template <class T>
void copy_blocks(Stream& stream, Matrix<T> out, Matrix<const T> in, std::span<const RowBlock> blocks) {
  for (; !blocks.empty(); blocks = blocks.subspan(std::min(blocks.size(), kMaxBlocks))) {
    RowBlocks some{};
    const std::size_t count = std::min(blocks.size(), kMaxBlocks);
    std::int64_t most = 0;
    for (std::size_t i = 0; i < count; ++i) {
      some.of[i] = blocks[i];
      most = std::max(most, blocks[i].count);
    }
    by_width<T>(
        [&](auto n) {
          Shape shape = per_row_of_vectors<n>(ceil_div(most, kRowsOfBlock), out.cols, kUnderWay);
          shape.blocks_y = static_cast<std::int64_t>(count);
          launch(stream, copy_blocks_kernel<T, n>, shape, out, in, some);
        },
        out, in);
  }
}

}  // namespace

template <class T>
void add_dispatch(Backend<T>& table) {
  table.count_rows = count_rows;
  table.place_rows = place_rows;
}
template <class T>
void add_block_copies(RowKernels<T>& table) {
  table.copy_blocks = copy_blocks<T>;
}

template void add_dispatch(Backend<float>& table);
template void add_dispatch(Backend<double>& table);
template void add_block_copies(RowKernels<float>& table);
template void add_block_copies(RowKernels<double>& table);
template void add_block_copies(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
