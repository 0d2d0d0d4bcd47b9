// kernels/cuda/dispatch.cu - counting and placing the entries of a routing table, and moving blocks of rows.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/counting.cuh"
#include "kernels/cuda/vectors.cuh"

namespace weft::kernels::cuda {
namespace {

/// out[e / local * rank_stride + e % local] += entries that name e.
struct AddToCounts {
  std::int64_t* out;
  std::int64_t local, rank_stride;
  __device__ void operator()(std::int64_t, std::int64_t e, std::int32_t n) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(out + e / local * rank_stride + e % local),
              static_cast<unsigned long long>(n));
  }
};

__global__ void place_entries_kernel(RowPlaces out, RowLists table, Matrix<const std::int32_t> source,
                                     NumbersView numbers) {
  const std::int64_t i = global_thread();
  if (i >= numbers.entries) return;
  const std::int64_t t = i / out.row.cols, k = i % out.row.cols;
  const std::int32_t e = table(0, i);
  const std::int64_t place = e < 0 ? -1 : numbers.sorted(0, i, e);
  out.row.row(t)[k] = static_cast<std::int32_t>(place);
  if (place >= 0)
    out.token[place] = source.data != nullptr ? source.row(t)[k] : static_cast<std::int32_t>(out.first_token + t);
}

void count_rows(Stream& stream, const RowCounts& counts, Matrix<const std::int32_t> expert,
                std::span<const std::int64_t> cuts) {
  const std::int64_t local = counts.num_local_experts, pieces = static_cast<std::int64_t>(cuts.size()) - 1;
  WEFT_CUDA_CHECK(cudaMemsetAsync(
      counts.data, 0, static_cast<std::size_t>(pieces * counts.num_experts) * sizeof(std::int64_t), native(stream)));
  for (std::int64_t p = 0; p < pieces; ++p) {
    const std::int64_t first = cuts[static_cast<std::size_t>(p)], rows = cuts[static_cast<std::size_t>(p) + 1] - first;
    count_entries(stream, RowLists{expert.row_range(first, rows), rows}, 1, rows * expert.cols, counts.num_experts,
                  AddToCounts{counts.data + p * local, local, pieces * local});
  }
}

void place_rows(Stream& stream, const RowPlaces& out, Matrix<const std::int32_t> expert,
                Matrix<const std::int32_t> source, std::int64_t num_experts) {
  const std::int64_t entries = out.row.rows * out.row.cols;
  const RowLists table{{expert.data, out.row.rows, out.row.cols, expert.data != nullptr ? expert.stride : out.row.cols},
                       out.row.rows};
  const Numbers numbers(stream, table, 1, entries, num_experts);
  launch(stream, place_entries_kernel, per_element(entries), out, table, source, numbers.view());
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
