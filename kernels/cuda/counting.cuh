// kernels/cuda/counting.cuh - lists whose entries name experts: how many name each, and which number an entry has among
// those that name the same. Each pass reads a list once, however many experts there are. What threads add to in any
// order are whole numbers: equal calls give equal bits.
#pragma once

#include <type_traits>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan.h"
#include "kernels/routing_groups.h"

namespace weft::kernels::cuda {

/// The entries of a table's rows, row after row; list g has the rows [g * list_rows, (g + 1) * list_rows). Without a
/// table, entry (t, k) names expert k.
struct RowLists {
  Matrix<const std::int32_t> expert;
  std::int64_t list_rows = 0;
  __device__ std::int32_t operator()(std::int64_t list, std::int64_t i) const {
    const std::int64_t k = i % expert.cols;
    return expert.data != nullptr ? expert.row(list * list_rows + i / expert.cols)[k] : static_cast<std::int32_t>(k);
  }
};

/// The choices of each routing group, the first ones of all its rows before the second ones.
struct ChoiceLists {
  Matrix<const std::int32_t> expert;
  RoutingGroups groups;
  [[nodiscard]] __device__ std::int64_t row(std::int64_t list, std::int64_t i) const {
    return groups.row(list * groups.rows + i % groups.rows);
  }
  __device__ std::int32_t operator()(std::int64_t list, std::int64_t i) const {
    return expert.row(row(list, i))[i / groups.rows];
  }
};

// ---- Counts -------------------------------------------------------------------------------------------------------

constexpr std::int64_t kCountedByBlock = 16 * kThreads;
constexpr std::int64_t kCountedExperts = 12288;  ///< So many counts fit the shared memory that every GPU gives unasked.

/// A block per part of a list: add(list, e, n) for each expert e of [first, first + num_experts) that n of its entries
/// name.
template <class Lists, class Add>
__global__ void count_entries_kernel(Lists lists, std::int64_t entries, std::int64_t first, std::int64_t num_experts,
                                     Add add) {
  auto* const counts = dynamic_shared<std::int32_t>();
  for (std::int64_t e = threadIdx.x; e < num_experts; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  const std::int64_t begin = blockIdx.x * kCountedByBlock, end = begin + kCountedByBlock;
  for (std::int64_t i = begin + threadIdx.x; i < end && i < entries; i += blockDim.x)
    if (const std::int64_t e = lists(blockIdx.y, i) - first; e >= 0 && e < num_experts) atomicAdd(counts + e, 1);
  __syncthreads();
  for (std::int64_t e = threadIdx.x; e < num_experts; e += blockDim.x)
    if (counts[e] > 0) add(blockIdx.y, first + e, counts[e]);
}

template <class Lists, class Add>
void count_entries(Stream& stream, const Lists& lists, std::int64_t num_lists, std::int64_t entries,
                   std::int64_t num_experts, const Add& add) {
  for (std::int64_t first = 0; first < num_experts; first += kCountedExperts) {
    const std::int64_t experts = std::min(num_experts - first, kCountedExperts);
    Shape shape{ceil_div(entries, kCountedByBlock), num_lists};
    shape.shared_bytes = static_cast<std::size_t>(experts) * sizeof(std::int32_t);
    launch(stream, count_entries_kernel<Lists, Add>, shape, lists, entries, first, experts, add);
  }
}

// ---- Numbers ------------------------------------------------------------------------------------------------------

constexpr std::int64_t kTileEntries = 8 * kWarp;

/// A warp per tile of a list: number[i] = entries of the tile before i that name the same expert, count[e, tile] =
/// those that name e. number: [lists, entries]; count: [lists, E, tiles], zeros before.
template <class Lists>
__global__ void number_tiles_kernel(std::int32_t* number, std::int32_t* count, Lists lists, std::int64_t entries,
                                    std::int64_t num_experts) {
  const std::int64_t list = blockIdx.y, tiles = gridDim.x, begin = blockIdx.x * kTileEntries;
  std::int32_t* const so_far = count + list * num_experts * tiles + blockIdx.x;
  for (std::int64_t at = begin; at < begin + kTileEntries && at < entries; at += kWarp) {
    const std::int64_t i = at + lane_id();
    const std::int32_t e = i < entries ? lists(list, i) : -1;
    const unsigned same = __match_any_sync(kAllLanes, e);
    const int before = __popc(same & ((1U << lane_id()) - 1));
    const std::int32_t base = e >= 0 ? so_far[e * tiles] : 0;
    __syncwarp();  // all have read what the first of each expert writes
    if (e >= 0 && before == 0) so_far[e * tiles] = base + __popc(same);
    __syncwarp();
    if (i < entries) number[list * entries + i] = base + before;
  }
}

/// What a kernel reads of numbered lists.
struct NumbersView {
  const std::int32_t* number = nullptr;  ///< [lists, entries] in the entry's tile.
  const std::int32_t* before = nullptr;  ///< [lists, E, tiles] entries of earlier (list, expert, tile).
  std::int64_t entries = 0, num_experts = 0, tiles = 0;

  /// The place of entry i of a list, which names e, among the entries of all lists sorted by (list, expert, entry).
  [[nodiscard]] __device__ std::int64_t sorted(std::int64_t list, std::int64_t i, std::int32_t e) const {
    return number[list * entries + i] + before[(list * num_experts + e) * tiles + i / kTileEntries];
  }
  /// Its number among those of its list that name e, in order.
  [[nodiscard]] __device__ std::int64_t in_list(std::int64_t list, std::int64_t i, std::int32_t e) const {
    return sorted(list, i, e) - before[(list * num_experts + e) * tiles];
  }
};

/// Lists with their entries numbered, in scratch memory of the stream.
class Numbers {
 public:
  template <class Lists>
  Numbers(Stream& stream, const Lists& lists, std::int64_t num_lists, std::int64_t entries, std::int64_t num_experts)
      : tiles_(ceil_div(entries, kTileEntries)),
        number_(native(stream), num_lists * entries),
        before_(native(stream), num_lists * num_experts * tiles_),
        view_{number_.data(), before_.data(), entries, num_experts, tiles_} {
    const std::int64_t count = num_lists * num_experts * tiles_;
    if (count == 0) return;
    WEFT_CUDA_CHECK(
        cudaMemsetAsync(before_.data(), 0, static_cast<std::size_t>(count) * sizeof(std::int32_t), native(stream)));
    launch(stream, number_tiles_kernel<Lists>, {tiles_, num_lists, kWarp}, number_.data(), before_.data(), lists,
           entries, num_experts);
    exclusive_sum(stream, before_.data(), count);
  }
  [[nodiscard]] const NumbersView& view() const { return view_; }

 private:
  std::int64_t tiles_;
  weft::cuda::StreamScratch<std::int32_t> number_, before_;
  NumbersView view_;
};

}  // namespace weft::kernels::cuda
