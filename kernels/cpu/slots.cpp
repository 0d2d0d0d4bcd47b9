#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/cpu/backend.h"
#include "kernels/slot_rank.h"

namespace weft::kernels::cpu {
namespace {

/// Calls visit(d, e, row, source) for every entry that travels; source: -1 for an empty slot.
template <class F>
void for_each_slot(const SlotRows& slots, const F& visit) {
  for (std::int64_t d = 0; d < slots.row.rows; ++d)
    for (std::int64_t e = 0; e < slots.row.cols; ++e)
      if (slots.row.row(d)[e] >= 0) visit(d, e, slots.row.row(d)[e], slots.source.row(d)[e]);
}

template <class T>
void add_scaled(T* out, const T* x, T factor, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) out[j] += factor * x[j];
}

template <class T>
void expert_choice(Stream&, const SlotTable<T>& table, Matrix<const T> scores, const RoutingGroups& groups) {
  const std::int64_t num_groups = scores.rows / groups.rows;
  const std::int64_t slots = num_groups == 0 ? 0 : table.source.rows / num_groups;
  std::vector<std::int32_t> order(static_cast<std::size_t>(groups.rows));  // rows of the group
  for (std::int64_t g = 0; g < num_groups; ++g)
    for (std::int64_t e = 0; e < scores.cols; ++e) {
      std::iota(order.begin(), order.end(), static_cast<std::int32_t>(g * groups.rows));
      const auto chosen = order.begin() + static_cast<std::ptrdiff_t>(slots);
      std::partial_sort(order.begin(), chosen, order.end(), [&](std::int32_t a, std::int32_t b) {
        const std::uint64_t x = slot_rank(scores.row(groups.row(a))[e]), y = slot_rank(scores.row(groups.row(b))[e]);
        return x != y ? x > y : a < b;
      });
      std::sort(order.begin(), chosen);
      for (std::int64_t j = 0; j < slots; ++j) {
        const std::int64_t t = groups.row(order[static_cast<std::size_t>(j)]), d = g * slots + j;
        table.source.row(d)[e] = groups.wants(t) ? static_cast<std::int32_t>(t - groups.first) : 0;
        table.kept.row(d)[e] = groups.wants(t) ? static_cast<std::int32_t>(e) : -1;
        table.weight.row(d)[e] = scores.row(t)[e];
      }
    }
}

template <class T>
void expert_choice_backward(Stream&, Matrix<T> d_scores, const SlotTable<const T>& table) {
  for (std::int64_t t = 0; t < d_scores.rows; ++t) std::fill_n(d_scores.row(t), d_scores.cols, T(0));
  for (std::int64_t d = 0; d < table.source.rows; ++d)
    for (std::int64_t e = 0; e < d_scores.cols; ++e)
      if (table.kept.row(d)[e] >= 0) d_scores.row(table.source.row(d)[e])[e] = table.weight.row(d)[e];
}

void keep_experts(Stream&, Matrix<std::int32_t> kept, std::int64_t first, std::int64_t end) {
  for (std::int64_t d = 0; d < kept.rows; ++d)
    for (std::int64_t e = 0; e < kept.cols; ++e)
      kept.row(d)[e] = e >= first && e < end ? static_cast<std::int32_t>(e) : -1;
}

template <class T>
void fill_slots(Stream&, const SlotTable<T>& table, Matrix<std::int32_t> place, Matrix<const std::int32_t> kept,
                Matrix<const T> weight, std::int64_t group_rows) {
  const std::int64_t experts = table.source.cols, groups = kept.rows / group_rows;
  const std::int64_t slots = groups == 0 ? 0 : table.source.rows / groups;
  for (std::int64_t d = 0; d < table.source.rows; ++d)
    for (std::int64_t e = 0; e < experts; ++e) {
      table.source.row(d)[e] = -1;
      table.kept.row(d)[e] = static_cast<std::int32_t>(e);
      table.weight.row(d)[e] = T(0);
    }
  std::vector<std::int64_t> next(static_cast<std::size_t>(experts));
  for (std::int64_t t = 0; t < kept.rows; ++t) {
    if (t % group_rows == 0) std::fill(next.begin(), next.end(), t / group_rows * slots);
    for (std::int64_t k = 0; k < kept.cols; ++k) {
      const std::int32_t e = kept.row(t)[k];
      place.row(t)[k] = -1;
      if (e < 0) continue;
      const std::int64_t d = next[static_cast<std::size_t>(e)]++;
      table.source.row(d)[e] = static_cast<std::int32_t>(t);
      table.weight.row(d)[e] = weight.row(t)[k];
      place.row(t)[k] = static_cast<std::int32_t>(d * experts + e);
    }
  }
}

template <class T>
void merge_logsumexp(Stream&, T* lse, Matrix<const T> parts) {
  for (std::int64_t i = 0; i < parts.cols; ++i) {
    T max = parts.row(0)[i], sum = T(0);
    for (std::int64_t r = 1; r < parts.rows; ++r) max = std::max(max, parts.row(r)[i]);
    for (std::int64_t r = 0; r < parts.rows; ++r) sum += std::exp(parts.row(r)[i] - max);
    lse[i] = max + std::log(sum);
  }
}

template <class T>
void column_logsumexp(Stream&, Matrix<T> lse, Matrix<const T> z, std::int64_t group_rows) {
  const std::int64_t groups = z.rows / group_rows;
  for (std::int64_t g = 0; g < groups; ++g) {
    std::vector<T> max(z.row(g * group_rows), z.row(g * group_rows) + z.cols), sum(max.size(), T(0));
    const auto rows = [&](const auto& visit) {
      for (std::int64_t t = g * group_rows; t < (g + 1) * group_rows; ++t)
        for (std::int64_t s = 0; s < z.cols; ++s) visit(t, s, static_cast<std::size_t>(s));
    };
    rows([&](std::int64_t t, std::int64_t s, std::size_t i) { max[i] = std::max(max[i], z.row(t)[s]); });
    rows([&](std::int64_t t, std::int64_t s, std::size_t i) { sum[i] += std::exp(z.row(t)[s] - max[i]); });
    for (std::size_t i = 0; i < sum.size(); ++i) lse.row(g)[i] = max[i] + std::log(sum[i]);
  }
}

template <class T>
void column_softmax_forward(Stream&, Matrix<T> out, Matrix<const T> z, Matrix<const T> lse, std::int64_t group_rows) {
  for (std::int64_t t = 0; t < z.rows; ++t)
    for (std::int64_t s = 0; s < z.cols; ++s) out.row(t)[s] = std::exp(z.row(t)[s] - lse.row(t / group_rows)[s]);
}

template <class T>
void column_dot(Stream&, Matrix<T> dot, Matrix<const T> dout, Matrix<const T> out, std::int64_t group_rows) {
  std::fill_n(dot.data, dot.rows * dot.cols, T(0));
  for (std::int64_t t = 0; t < out.rows; ++t)
    for (std::int64_t s = 0; s < out.cols; ++s) dot.row(t / group_rows)[s] += dout.row(t)[s] * out.row(t)[s];
}

template <class T>
void column_softmax_backward(Stream&, Matrix<T> dz, const ColumnSoftmaxGradient<T>& grad, std::int64_t group_rows) {
  const auto& [dout, out, dot] = grad;
  for (std::int64_t t = 0; t < out.rows; ++t)
    for (std::int64_t s = 0; s < out.cols; ++s)
      dz.row(t)[s] += out.row(t)[s] * (dout.row(t)[s] - dot.row(t / group_rows)[s]);
}

template <class T>
void slots_scatter(Stream&, Matrix<T> out, Matrix<const T> rows, const SlotRows& slots, Matrix<const T> weight) {
  for_each_slot(slots, [&](std::int64_t d, std::int64_t e, std::int32_t row, std::int32_t source) {
    if (source < 0) return;
    add_scaled(out.row(source), rows.row(row), weight.row(d)[e], out.cols);
  });
}

template <class T>
void slots_scatter_backward(Stream&, const SlotsGradient<T>& grad, Matrix<const T> dout, Matrix<const T> rows,
                            const SlotRows& slots, Matrix<const T> weight) {
  for (std::int64_t d = 0; d < weight.rows; ++d) std::fill_n(grad.d_weight.row(d), weight.cols, T(0));
  for_each_slot(slots, [&](std::int64_t d, std::int64_t e, std::int32_t row, std::int32_t source) {
    T* d_row = grad.d_rows.row(grad.d_row.row(d)[e]);
    if (source < 0) {
      std::fill_n(d_row, dout.cols, T(0));
      return;
    }
    const T *dy = dout.row(source), *y = rows.row(row);
    T dot = 0;
    for (std::int64_t j = 0; j < dout.cols; ++j) {
      dot += dy[j] * y[j];
      d_row[j] = weight.row(d)[e] * dy[j];
    }
    grad.d_weight.row(d)[e] = dot;
  });
}

template <class T>
void slots_gather_backward(Stream&, Matrix<T> dx, Matrix<const T> d_rows, const SlotRows& slots) {
  for_each_slot(slots, [&](std::int64_t, std::int64_t, std::int32_t row, std::int32_t source) {
    if (source < 0) return;
    add_scaled(dx.row(source), d_rows.row(row), T(1), dx.cols);
  });
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
  table.slots_scatter = slots_scatter<T>;
  table.slots_scatter_backward = slots_scatter_backward<T>;
  table.slots_gather_backward = slots_gather_backward<T>;
}

template void add_slots(Backend<float>& table);
template void add_slots(Backend<double>& table);

}  // namespace weft::kernels::cpu
