// kernels/cuda/slots.cu - slots that take tokens, and slots that mix them. Where several slots of a table add to one
// token, their entries are sorted by token, and one block adds them in order.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/counting.cuh"
#include "kernels/cuda/sort.h"
#include "kernels/cuda/vectors.cuh"
#include "kernels/slot_rank.h"

namespace weft::kernels::cuda {
namespace {

/// A block per expert and group. It finds the score of the last row that is taken bit by bit: the largest number that
/// enough rows reach. All above are taken, and of those that equal it the first ones.
template <class T>
__global__ void expert_choice_kernel(SlotTable<T> table, Matrix<const T> scores, RoutingGroups groups,
                                     std::int64_t slots) {
  const std::int64_t e = blockIdx.x, first_row = blockIdx.y * groups.rows, first_slot = blockIdx.y * slots;
  const auto rows_where = [&](const auto& holds) {
    std::int64_t count = 0;
    for (std::int64_t i = threadIdx.x; i < groups.rows; i += blockDim.x)
      if (holds(slot_rank(scores.row(groups.row(first_row + i))[e]))) ++count;
    return block_sum(count);
  };
  constexpr int kBits = 52;
  std::uint64_t last = 0;
  for (int bit = kBits; bit >= 0; --bit) {
    const std::uint64_t higher = last | std::uint64_t{1} << bit;
    if (rows_where([&](std::uint64_t rank) { return rank >= higher; }) >= slots) last = higher;
  }
  const std::int64_t equals = slots - rows_where([&](std::uint64_t rank) { return rank > last; });
  std::int64_t taken = 0, met = 0;  // slots filled, and rows of score `last` seen
  for (std::int64_t first = 0; first < groups.rows; first += blockDim.x) {
    const std::int64_t i = first + threadIdx.x, t = i < groups.rows ? groups.row(first_row + i) : 0;
    const std::uint64_t rank = i < groups.rows ? slot_rank(scores.row(t)[e]) : 0;
    int total = 0;
    const bool equal = i < groups.rows && rank == last;
    const std::int64_t place = met + block_rank(equal, total);
    met += total;
    const bool taken_here = i < groups.rows && (rank > last || (equal && place < equals));
    const std::int64_t slot = first_slot + taken + block_rank(taken_here, total);
    taken += total;
    if (!taken_here) continue;
    table.source.row(slot)[e] = groups.wants(t) ? static_cast<std::int32_t>(t - groups.first) : 0;
    table.kept.row(slot)[e] = groups.wants(t) ? static_cast<std::int32_t>(e) : -1;
    table.weight.row(slot)[e] = scores.row(t)[e];
  }
}

template <class T>
__global__ void expert_choice_backward_kernel(Matrix<T> d_scores, SlotTable<const T> table) {
  const std::int64_t i = global_thread();
  if (i >= table.source.rows * table.source.cols) return;
  const std::int64_t d = i / table.source.cols, e = i % table.source.cols;
  if (table.kept.row(d)[e] >= 0) d_scores.row(table.source.row(d)[e])[e] = table.weight.row(d)[e];
}

__global__ void keep_experts_kernel(Matrix<std::int32_t> kept, std::int64_t first, std::int64_t end) {
  const std::int64_t i = global_thread();
  if (i >= kept.rows * kept.cols) return;
  const std::int64_t e = i % kept.cols;
  kept.row(i / kept.cols)[e] = e >= first && e < end ? static_cast<std::int32_t>(e) : -1;
}

template <class T>
__global__ void empty_slots_kernel(SlotTable<T> table) {
  const std::int64_t i = global_thread();
  if (i >= table.source.rows * table.source.cols) return;
  const std::int64_t d = i / table.source.cols, e = i % table.source.cols;
  table.source.row(d)[e] = -1;
  table.kept.row(d)[e] = static_cast<std::int32_t>(e);
  table.weight.row(d)[e] = 0;
}

template <class T>
__global__ void fill_slots_kernel(SlotTable<T> table, Matrix<std::int32_t> place, RowLists kept, Matrix<const T> weight,
                                  NumbersView numbers, std::int64_t slots) {
  const std::int64_t at = global_thread(), group = at / numbers.entries, i = at % numbers.entries;
  if (at >= weight.rows * weight.cols) return;
  const std::int64_t t = at / weight.cols, k = at % weight.cols;
  const std::int32_t e = kept(group, i);
  place.row(t)[k] = -1;
  if (e < 0) return;
  const std::int64_t d = group * slots + numbers.in_list(group, i, e);
  table.source.row(d)[e] = static_cast<std::int32_t>(t);
  table.weight.row(d)[e] = weight.row(t)[k];
  place.row(t)[k] = static_cast<std::int32_t>(d * table.source.cols + e);
}

template <class T>
__global__ void merge_logsumexp_kernel(T* lse, Matrix<const T> parts) {
  const std::int64_t i = global_thread();
  if (i >= parts.cols) return;
  T max = parts.row(0)[i], sum = 0;
  for (std::int64_t r = 1; r < parts.rows; ++r) max = parts.row(r)[i] > max ? parts.row(r)[i] : max;
  for (std::int64_t r = 0; r < parts.rows; ++r) sum += std::exp(parts.row(r)[i] - max);
  lse[i] = max + std::log(sum);
}

/// A thread per column and group: neighbours read neighbours.
template <class T>
__global__ void column_logsumexp_kernel(Matrix<T> lse, Matrix<const T> z, std::int64_t group_rows) {
  const std::int64_t s = global_thread(), first = blockIdx.y * group_rows;
  if (s >= z.cols) return;
  T max = z.row(first)[s], sum = 0;
  for (std::int64_t t = first; t < first + group_rows; ++t) max = z.row(t)[s] > max ? z.row(t)[s] : max;
  for (std::int64_t t = first; t < first + group_rows; ++t) sum += std::exp(z.row(t)[s] - max);
  lse.row(blockIdx.y)[s] = max + std::log(sum);
}

template <class T>
__global__ void column_softmax_forward_kernel(Matrix<T> out, Matrix<const T> z, Matrix<const T> lse,
                                              std::int64_t group_rows) {
  const std::int64_t t = blockIdx.x;
  for (std::int64_t s = threadIdx.x; s < z.cols; s += blockDim.x)
    out.row(t)[s] = std::exp(z.row(t)[s] - lse.row(t / group_rows)[s]);
}

template <class T>
__global__ void column_dot_kernel(Matrix<T> dot, Matrix<const T> dout, Matrix<const T> out, std::int64_t group_rows) {
  const std::int64_t s = global_thread(), first = blockIdx.y * group_rows;
  if (s >= out.cols) return;
  T sum = 0;
  for (std::int64_t t = first; t < first + group_rows; ++t) sum += dout.row(t)[s] * out.row(t)[s];
  dot.row(blockIdx.y)[s] = sum;
}

template <class T>
__global__ void column_softmax_backward_kernel(Matrix<T> dz, ColumnSoftmaxGradient<T> grad, std::int64_t group_rows) {
  const std::int64_t t = blockIdx.x;
  for (std::int64_t s = threadIdx.x; s < dz.cols; s += blockDim.x)
    dz.row(t)[s] += grad.out.row(t)[s] * (grad.dout.row(t)[s] - grad.dot.row(t / group_rows)[s]);
}

/// keys[i] = (token of entry i, i), kNoKey for entries that do not travel.
__global__ void slot_keys_kernel(std::uint64_t* keys, SlotRows slots) {
  const std::int64_t i = global_thread();
  if (i >= slots.row.rows * slots.row.cols) return;
  const std::int64_t d = i / slots.row.cols, e = i % slots.row.cols;
  const bool travels = slots.row.row(d)[e] >= 0 && slots.source.row(d)[e] >= 0;
  const auto token = static_cast<std::uint64_t>(slots.source.row(d)[e]);
  keys[i] = travels ? token << kIdShift | static_cast<std::uint64_t>(i) : kNoKey;
}

/// A block per key; the first key of a token adds all of its entries, in the order of the table. No weights: 1.
template <class T, int N>
__global__ void add_entries_kernel(Matrix<T> out, Matrix<const T> rows, SlotRows slots, Matrix<const Wide<T>> weight,
                                   const std::uint64_t* keys) {
  const std::int64_t first = blockIdx.x, entries = slots.row.rows * slots.row.cols;
  const std::uint64_t key = keys[first], token = key >> kIdShift;
  if (key == kNoKey || (first > 0 && keys[first - 1] >> kIdShift == token)) return;
  T* to = out.row(static_cast<std::int64_t>(token));
  for_vectors<N>(out.cols, [&](auto n, std::int64_t j) {
    Vector<T, n> v = load_vector<n>(to + j);
    Wide<T> sum[n];
#pragma unroll
    for (int c = 0; c < n; ++c) sum[c] = v.of[c];
    for (std::int64_t at = first; at < entries && keys[at] >> kIdShift == token; ++at) {
      const auto i = static_cast<std::int64_t>(keys[at] & 0xffffffffU);
      const std::int64_t d = i / slots.row.cols, e = i % slots.row.cols;
      const Wide<T> w = weight.data != nullptr ? weight.row(d)[e] : Wide<T>(1);
      v = load_vector<n>(rows.row(slots.row.row(d)[e]) + j);
#pragma unroll
      for (int c = 0; c < n; ++c) sum[c] += w * v.of[c];
    }
#pragma unroll
    for (int c = 0; c < n; ++c) v.of[c] = sum[c];
    store_vector<n>(to + j, v);
  });
}

/// A block per entry.
template <class T, int N>
__global__ void slots_scatter_backward_kernel(SlotsGradient<T> grad, Matrix<const T> dout, Matrix<const T> rows,
                                              SlotRows slots, Matrix<const Wide<T>> weight) {
  const std::int64_t d = blockIdx.x / slots.row.cols, e = blockIdx.x % slots.row.cols;
  const std::int32_t row = slots.row.row(d)[e], source = slots.source.row(d)[e];
  T* const to = row >= 0 ? grad.d_rows.row(grad.d_row.row(d)[e]) : nullptr;
  Wide<T> dot = 0;
  if (row >= 0 && source < 0)
    for_vectors<N>(dout.cols, [&](auto n, std::int64_t j) { store_vector<n>(to + j, Vector<T, n>{}); });
  else if (row >= 0)
    for_vectors<N>(dout.cols, [&](auto n, std::int64_t j) {
      const Vector<T, n> dy = load_vector<n>(dout.row(source) + j), y = load_vector<n>(rows.row(row) + j);
      Vector<T, n> scaled;
#pragma unroll
      for (int c = 0; c < n; ++c) {
        dot += dy.of[c] * y.of[c];
        scaled.of[c] = weight.row(d)[e] * dy.of[c];
      }
      store_vector<n>(to + j, scaled);
    });
  dot = block_sum(dot);
  if (threadIdx.x == 0) grad.d_weight.row(d)[e] = dot;
}

template <class T>
void expert_choice(Stream& stream, const SlotTable<T>& table, Matrix<const T> scores, const RoutingGroups& groups) {
  const std::int64_t num_groups = scores.rows / groups.rows;
  const std::int64_t slots = num_groups == 0 ? 0 : table.source.rows / num_groups;
  launch(stream, expert_choice_kernel<T>, {scores.cols, num_groups}, table, scores, groups, slots);
}
template <class T>
void expert_choice_backward(Stream& stream, Matrix<T> d_scores, const SlotTable<const T>& table) {
  if (d_scores.rows == 0 || d_scores.cols == 0) return;
  WEFT_CUDA_CHECK(cudaMemset2DAsync(d_scores.data, static_cast<std::size_t>(d_scores.stride) * sizeof(T), 0,
                                    static_cast<std::size_t>(d_scores.cols) * sizeof(T),
                                    static_cast<std::size_t>(d_scores.rows), native(stream)));
  launch(stream, expert_choice_backward_kernel<T>, per_element(table.source.rows * table.source.cols), d_scores, table);
}
void keep_experts(Stream& stream, Matrix<std::int32_t> kept, std::int64_t first, std::int64_t end) {
  launch(stream, keep_experts_kernel, per_element(kept.rows * kept.cols), kept, first, end);
}
template <class T>
void fill_slots(Stream& stream, const SlotTable<T>& table, Matrix<std::int32_t> place, Matrix<const std::int32_t> kept,
                Matrix<const T> weight, std::int64_t group_rows) {
  const std::int64_t groups = kept.rows / group_rows, slots = groups == 0 ? 0 : table.source.rows / groups;
  const RowLists lists{kept, group_rows};
  const Numbers numbers(stream, lists, groups, group_rows * kept.cols, table.source.cols);
  launch(stream, empty_slots_kernel<T>, per_element(table.source.rows * table.source.cols), table);
  launch(stream, fill_slots_kernel<T>, per_element(kept.rows * kept.cols), table, place, lists, weight, numbers.view(),
         slots);
}
template <class T>
void merge_logsumexp(Stream& stream, T* lse, Matrix<const T> parts) {
  launch(stream, merge_logsumexp_kernel<T>, per_element(parts.cols), lse, parts);
}

/// A thread for each of n columns of each group.
Shape per_column(std::int64_t n, std::int64_t groups) {
  Shape shape = per_element(n);
  shape.blocks_y = groups;
  return shape;
}
template <class T>
void column_logsumexp(Stream& stream, Matrix<T> lse, Matrix<const T> z, std::int64_t group_rows) {
  launch(stream, column_logsumexp_kernel<T>, per_column(z.cols, lse.rows), lse, z, group_rows);
}
template <class T>
void column_softmax_forward(Stream& stream, Matrix<T> out, Matrix<const T> z, Matrix<const T> lse,
                            std::int64_t group_rows) {
  launch(stream, column_softmax_forward_kernel<T>, per_row(z.rows, z.cols), out, z, lse, group_rows);
}
template <class T>
void column_dot(Stream& stream, Matrix<T> dot, Matrix<const T> dout, Matrix<const T> out, std::int64_t group_rows) {
  launch(stream, column_dot_kernel<T>, per_column(out.cols, dot.rows), dot, dout, out, group_rows);
}
template <class T>
void column_softmax_backward(Stream& stream, Matrix<T> dz, const ColumnSoftmaxGradient<T>& grad,
                             std::int64_t group_rows) {
  launch(stream, column_softmax_backward_kernel<T>, per_row(dz.rows, dz.cols), dz, grad, group_rows);
}

/// Without weights: 1.
template <class T>
void add_entries(Stream& stream, Matrix<T> out, Matrix<const T> rows, const SlotRows& slots,
                 Matrix<const Wide<T>> weight) {
  const std::int64_t entries = slots.row.rows * slots.row.cols;
  if (entries == 0) return;
  const weft::cuda::StreamScratch<std::uint64_t> keys(native(stream), entries), sorted(native(stream), entries);
  launch(stream, slot_keys_kernel, per_element(entries), keys.data(), slots);
  sort_by_id(stream, sorted.data(), keys.data(), entries, out.rows);
  by_width<T>(
      [&](auto n) {
        launch(stream, add_entries_kernel<T, n>, per_row_of_vectors<n>(entries, out.cols, 1), out, rows, slots, weight,
               sorted.data());
      },
      out, rows);
}
template <class T>
void slots_scatter(Stream& stream, Matrix<T> out, Matrix<const T> rows, const SlotRows& slots,
                   Matrix<const Wide<T>> weight) {
  add_entries(stream, out, rows, slots, weight);
}
template <class T>
void slots_scatter_backward(Stream& stream, const SlotsGradient<T>& grad, Matrix<const T> dout, Matrix<const T> rows,
                            const SlotRows& slots, Matrix<const Wide<T>> weight) {
  by_width<T>(
      [&](auto n) {
        launch(stream, slots_scatter_backward_kernel<T, n>,
               per_row_of_vectors<n>(slots.row.rows * slots.row.cols, dout.cols, 1), grad, dout, rows, slots, weight);
      },
      grad.d_rows, dout, rows);
}
template <class T>
void slots_gather_backward(Stream& stream, Matrix<T> dx, Matrix<const T> d_rows, const SlotRows& slots) {
  add_entries(stream, dx, d_rows, slots, Matrix<const Wide<T>>());
}

}  // namespace

template <class T>
void add_slots(Backend<T>& table) {
  table.expert_choice = expert_choice<T>;
  table.expert_choice_backward = expert_choice_backward<T>;
  table.keep_experts = keep_experts;
  table.fill_slots = fill_slots<T>;
  table.merge_logsumexp = merge_logsumexp<T>;
  table.column_logsumexp = column_logsumexp<T>;
  table.column_dot = column_dot<T>;
  table.column_softmax_forward = column_softmax_forward<T>;
  table.column_softmax_backward = column_softmax_backward<T>;
}
template <class T>
void add_slot_moves(RowKernels<T>& table) {
  table.slots_scatter = slots_scatter<T>;
  table.slots_scatter_backward = slots_scatter_backward<T>;
  table.slots_gather_backward = slots_gather_backward<T>;
}

template void add_slots(Backend<float>& table);
template void add_slots(Backend<double>& table);
template void add_slot_moves(RowKernels<float>& table);
template void add_slot_moves(RowKernels<double>& table);
template void add_slot_moves(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
