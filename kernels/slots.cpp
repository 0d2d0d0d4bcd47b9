#include "kernels/slots.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "kernels/check.h"

namespace weft::kernels {
namespace {

std::int64_t groups_of(const char* kernel, std::int64_t rows, std::int64_t group_rows) {
  WEFT_CHECK(group_rows > 0 && rows % group_rows == 0, kernel, ": ", rows, " rows are no multiple of the group's ",
             group_rows);
  return rows / group_rows;
}

void check_slots(const char* kernel, const SlotRows& slots) {
  check_matrix(kernel, "row", slots.row, slots.row.rows, slots.row.cols);
  check_matrix(kernel, "source", slots.source, slots.row.rows, slots.row.cols);
}

/// Calls visit(d, e, row, source) for every entry that travels.
template <class F>
void for_each_slot(const SlotRows& slots, const F& visit) {
  for (std::int64_t d = 0; d < slots.row.rows; ++d)
    for (std::int64_t e = 0; e < slots.row.cols; ++e)
      if (slots.row.row(d)[e] >= 0) visit(d, e, slots.row.row(d)[e], slots.source.row(d)[e]);
}

/// The score as a whole number that orders like it, without the last bits of its mantissa.
std::uint64_t rank_of(double score) {
  if (!(score > 0.0)) return 0;  // a NaN sorts below everything
  return (std::bit_cast<std::uint64_t>(score) + (1U << 11)) >> 12;
}
std::uint64_t rank_of(float score) {
  if (!(score > 0.0F)) return 0;
  return (std::bit_cast<std::uint32_t>(score) + (1U << 7)) >> 8;
}

template <class T>
void add_scaled(T* out, const T* x, T factor, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) out[j] += factor * x[j];
}

}  // namespace

template <class T>
void expert_choice(Stream&, const SlotTable<T>& table, Matrix<const T> scores, std::int64_t group_rows) {
  const std::int64_t groups = groups_of("expert_choice", scores.rows, group_rows);
  const std::int64_t slots = groups == 0 ? 0 : table.source.rows / groups;
  WEFT_CHECK(slots * groups == table.source.rows && slots <= group_rows, "expert_choice: ", table.source.rows,
             " slots for ", groups, " groups of ", group_rows, " rows");
  for (const MatrixShape& m : {MatrixShape(table.source), MatrixShape(table.kept), MatrixShape(table.weight)})
    check_matrix("expert_choice", "a table", m, table.source.rows, scores.cols);
  std::vector<std::int32_t> order(static_cast<std::size_t>(group_rows));
  for (std::int64_t g = 0; g < groups; ++g)
    for (std::int64_t e = 0; e < scores.cols; ++e) {
      std::iota(order.begin(), order.end(), static_cast<std::int32_t>(g * group_rows));
      const auto chosen = order.begin() + static_cast<std::ptrdiff_t>(slots);
      std::partial_sort(order.begin(), chosen, order.end(), [&](std::int32_t a, std::int32_t b) {
        const std::uint64_t x = rank_of(scores.row(a)[e]), y = rank_of(scores.row(b)[e]);
        return x != y ? x > y : a < b;
      });
      std::sort(order.begin(), chosen);
      for (std::int64_t j = 0; j < slots; ++j) {
        const std::int32_t t = order[static_cast<std::size_t>(j)];
        table.source.row(g * slots + j)[e] = t;
        table.kept.row(g * slots + j)[e] = static_cast<std::int32_t>(e);
        table.weight.row(g * slots + j)[e] = scores.row(t)[e];
      }
    }
}

template <class T>
void column_logsumexp(Stream&, Matrix<T> lse, Matrix<const T> z, std::int64_t group_rows) {
  const std::int64_t groups = groups_of("column_logsumexp", z.rows, group_rows);
  check_matrix("column_logsumexp", "lse", lse, groups, z.cols);
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
  check_matrix("column_softmax_forward", "out", out, z.rows, z.cols);
  check_matrix("column_softmax_forward", "lse", lse, groups_of("column_softmax_forward", z.rows, group_rows), z.cols);
  for (std::int64_t t = 0; t < z.rows; ++t)
    for (std::int64_t s = 0; s < z.cols; ++s) out.row(t)[s] = std::exp(z.row(t)[s] - lse.row(t / group_rows)[s]);
}

template <class T>
void column_dot(Stream&, Matrix<T> dot, Matrix<const T> dout, Matrix<const T> out, std::int64_t group_rows) {
  check_matrix("column_dot", "dout", dout, out.rows, out.cols);
  check_matrix("column_dot", "dot", dot, groups_of("column_dot", out.rows, group_rows), out.cols);
  std::fill_n(dot.data, dot.rows * dot.cols, T(0));
  for (std::int64_t t = 0; t < out.rows; ++t)
    for (std::int64_t s = 0; s < out.cols; ++s) dot.row(t / group_rows)[s] += dout.row(t)[s] * out.row(t)[s];
}

template <class T>
void column_softmax_backward(Stream&, Matrix<T> dz, const ColumnSoftmaxGradient<T>& grad, std::int64_t group_rows) {
  const auto& [dout, out, dot] = grad;
  check_matrix("column_softmax_backward", "dz", dz, out.rows, out.cols);
  check_matrix("column_softmax_backward", "dout", dout, out.rows, out.cols);
  check_matrix("column_softmax_backward", "dot", dot, groups_of("column_softmax_backward", out.rows, group_rows),
               out.cols);
  for (std::int64_t t = 0; t < out.rows; ++t)
    for (std::int64_t s = 0; s < out.cols; ++s)
      dz.row(t)[s] += out.row(t)[s] * (dout.row(t)[s] - dot.row(t / group_rows)[s]);
}

template <class T>
void slots_scatter(Stream&, Matrix<T> out, Matrix<const T> rows, const SlotRows& slots, Matrix<const T> weight) {
  check_slots("slots_scatter", slots);
  check_matrix("slots_scatter", "weight", weight, slots.row.rows, slots.row.cols);
  check_matrix("slots_scatter", "rows", rows, rows.rows, out.cols);
  for_each_slot(slots, [&](std::int64_t d, std::int64_t e, std::int32_t row, std::int32_t source) {
    add_scaled(out.row(source), rows.row(row), weight.row(d)[e], out.cols);
  });
}

template <class T>
void slots_scatter_backward(Stream&, const SlotsGradient<T>& grad, Matrix<const T> dout, Matrix<const T> rows,
                            const SlotRows& slots, Matrix<const T> weight) {
  check_slots("slots_scatter_backward", slots);
  check_matrix("slots_scatter_backward", "weight", weight, slots.row.rows, slots.row.cols);
  check_matrix("slots_scatter_backward", "d_weight", grad.d_weight, slots.row.rows, slots.row.cols);
  check_matrix("slots_scatter_backward", "d_row", grad.d_row, slots.row.rows, slots.row.cols);
  check_matrix("slots_scatter_backward", "d_rows", grad.d_rows, grad.d_rows.rows, dout.cols);
  for (std::int64_t d = 0; d < weight.rows; ++d) std::fill_n(grad.d_weight.row(d), weight.cols, T(0));
  for_each_slot(slots, [&](std::int64_t d, std::int64_t e, std::int32_t row, std::int32_t source) {
    const T *dy = dout.row(source), *y = rows.row(row);
    T* d_row = grad.d_rows.row(grad.d_row.row(d)[e]);
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
  check_slots("slots_gather_backward", slots);
  check_matrix("slots_gather_backward", "d_rows", d_rows, d_rows.rows, dx.cols);
  for_each_slot(slots, [&](std::int64_t, std::int64_t, std::int32_t row, std::int32_t source) {
    add_scaled(dx.row(source), d_rows.row(row), T(1), dx.cols);
  });
}

#define WEFT_INSTANTIATE(T)                                                 \
  template decltype(expert_choice<T>) expert_choice<T>;                     \
  template decltype(column_logsumexp<T>) column_logsumexp<T>;               \
  template decltype(column_dot<T>) column_dot<T>;                           \
  template decltype(column_softmax_forward<T>) column_softmax_forward<T>;   \
  template decltype(column_softmax_backward<T>) column_softmax_backward<T>; \
  template decltype(slots_scatter<T>) slots_scatter<T>;                     \
  template decltype(slots_scatter_backward<T>) slots_scatter_backward<T>;   \
  template decltype(slots_gather_backward<T>) slots_gather_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

}  // namespace weft::kernels
