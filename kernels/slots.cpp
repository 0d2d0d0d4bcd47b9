#include "kernels/slots.h"

#include "kernels/backend.h"
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

}  // namespace

template <class T>
void expert_choice(Stream& stream, const SlotTable<T>& table, Matrix<const T> scores, const RoutingGroups& groups) {
  check_matrix("expert_choice", "scores", scores, scores.rows, scores.cols);
  check_routing_groups("expert_choice", groups, scores.rows);
  const std::int64_t num_groups = scores.rows / groups.rows;
  const std::int64_t slots = num_groups == 0 ? 0 : table.source.rows / num_groups;
  WEFT_CHECK(slots * num_groups == table.source.rows && slots <= groups.rows, "expert_choice: ", table.source.rows,
             " slots for ", num_groups, " groups of ", groups.rows, " rows");
  for (const MatrixShape& m : {MatrixShape(table.source), MatrixShape(table.kept), MatrixShape(table.weight)})
    check_matrix("expert_choice", "a table", m, table.source.rows, scores.cols);
  backend<T>(stream).expert_choice(stream, table, scores, groups);
}

template <class T>
void expert_choice_backward(Stream& stream, Matrix<T> d_scores, const SlotTable<const T>& table) {
  check_matrix("expert_choice_backward", "d_scores", d_scores, d_scores.rows, d_scores.cols);
  for (const MatrixShape& m : {MatrixShape(table.source), MatrixShape(table.kept), MatrixShape(table.weight)})
    check_matrix("expert_choice_backward", "a table", m, table.source.rows, d_scores.cols);
  backend<T>(stream).expert_choice_backward(stream, d_scores, table);
}

void keep_experts(Stream& stream, Matrix<std::int32_t> kept, std::int64_t first, std::int64_t end) {
  check_matrix("keep_experts", "kept", kept, kept.rows, kept.cols);
  backend<float>(stream).keep_experts(stream, kept, first, end);
}

template <class T>
void fill_slots(Stream& stream, const SlotTable<T>& table, Matrix<std::int32_t> place, Matrix<const std::int32_t> kept,
                Matrix<const T> weight, std::int64_t group_rows) {
  const std::int64_t groups = groups_of("fill_slots", kept.rows, group_rows);
  WEFT_CHECK(groups == 0 ? table.source.rows == 0 : table.source.rows % groups == 0, "fill_slots: ", table.source.rows,
             " slots for ", groups, " groups");
  for (const MatrixShape& m : {MatrixShape(table.source), MatrixShape(table.kept), MatrixShape(table.weight)})
    check_matrix("fill_slots", "a table", m, table.source.rows, table.source.cols);
  for (const MatrixShape& m : {MatrixShape(place), MatrixShape(kept), MatrixShape(weight)})
    check_matrix("fill_slots", "choices", m, kept.rows, kept.cols);
  backend<T>(stream).fill_slots(stream, table, place, kept, weight, group_rows);
}

template <class T>
void merge_logsumexp(Stream& stream, T* lse, Matrix<const T> parts) {
  check_matrix("merge_logsumexp", "parts", parts, parts.rows, parts.cols);
  check_array("merge_logsumexp", "lse", lse, parts.cols);
  WEFT_CHECK(parts.rows > 0, "merge_logsumexp: no parts");
  backend<T>(stream).merge_logsumexp(stream, lse, parts);
}

template <class T>
void column_logsumexp(Stream& stream, Matrix<T> lse, Matrix<const T> z, std::int64_t group_rows) {
  check_matrix("column_logsumexp", "lse", lse, groups_of("column_logsumexp", z.rows, group_rows), z.cols);
  backend<T>(stream).column_logsumexp(stream, lse, z, group_rows);
}

template <class T>
void column_softmax_forward(Stream& stream, Matrix<T> out, Matrix<const T> z, Matrix<const T> lse,
                            std::int64_t group_rows) {
  check_matrix("column_softmax_forward", "out", out, z.rows, z.cols);
  check_matrix("column_softmax_forward", "lse", lse, groups_of("column_softmax_forward", z.rows, group_rows), z.cols);
  backend<T>(stream).column_softmax_forward(stream, out, z, lse, group_rows);
}

template <class T>
void column_dot(Stream& stream, Matrix<T> dot, Matrix<const T> dout, Matrix<const T> out, std::int64_t group_rows) {
  check_matrix("column_dot", "dout", dout, out.rows, out.cols);
  check_matrix("column_dot", "dot", dot, groups_of("column_dot", out.rows, group_rows), out.cols);
  backend<T>(stream).column_dot(stream, dot, dout, out, group_rows);
}

template <class T>
void column_softmax_backward(Stream& stream, Matrix<T> dz, const ColumnSoftmaxGradient<T>& grad,
                             std::int64_t group_rows) {
  const auto& [dout, out, dot] = grad;
  check_matrix("column_softmax_backward", "dz", dz, out.rows, out.cols);
  check_matrix("column_softmax_backward", "dout", dout, out.rows, out.cols);
  check_matrix("column_softmax_backward", "dot", dot, groups_of("column_softmax_backward", out.rows, group_rows),
               out.cols);
  backend<T>(stream).column_softmax_backward(stream, dz, grad, group_rows);
}

template <class T>
void slots_scatter(Stream& stream, Matrix<T> out, Matrix<const T> rows, const SlotRows& slots,
                   Matrix<const Wide<T>> weight) {
  check_slots("slots_scatter", slots);
  check_matrix("slots_scatter", "weight", weight, slots.row.rows, slots.row.cols);
  check_matrix("slots_scatter", "rows", rows, rows.rows, out.cols);
  backend<T>(stream).slots_scatter(stream, out, rows, slots, weight);
}

template <class T>
void slots_scatter_backward(Stream& stream, const SlotsGradient<T>& grad, Matrix<const T> dout, Matrix<const T> rows,
                            const SlotRows& slots, Matrix<const Wide<T>> weight) {
  check_slots("slots_scatter_backward", slots);
  check_matrix("slots_scatter_backward", "weight", weight, slots.row.rows, slots.row.cols);
  check_matrix("slots_scatter_backward", "d_weight", grad.d_weight, slots.row.rows, slots.row.cols);
  check_matrix("slots_scatter_backward", "d_row", grad.d_row, slots.row.rows, slots.row.cols);
  check_matrix("slots_scatter_backward", "d_rows", grad.d_rows, grad.d_rows.rows, dout.cols);
  check_matrix("slots_scatter_backward", "rows", rows, rows.rows, dout.cols);
  backend<T>(stream).slots_scatter_backward(stream, grad, dout, rows, slots, weight);
}

template <class T>
void slots_gather_backward(Stream& stream, Matrix<T> dx, Matrix<const T> d_rows, const SlotRows& slots) {
  check_slots("slots_gather_backward", slots);
  check_matrix("slots_gather_backward", "d_rows", d_rows, d_rows.rows, dx.cols);
  backend<T>(stream).slots_gather_backward(stream, dx, d_rows, slots);
}

#define WEFT_INSTANTIATE(T)                                               \
  template decltype(expert_choice<T>) expert_choice<T>;                   \
  template decltype(expert_choice_backward<T>) expert_choice_backward<T>; \
  template decltype(fill_slots<T>) fill_slots<T>;                         \
  template decltype(merge_logsumexp<T>) merge_logsumexp<T>;               \
  template decltype(column_logsumexp<T>) column_logsumexp<T>;             \
  template decltype(column_dot<T>) column_dot<T>;                         \
  template decltype(column_softmax_forward<T>) column_softmax_forward<T>; \
  template decltype(column_softmax_backward<T>) column_softmax_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
#undef WEFT_INSTANTIATE

#define WEFT_INSTANTIATE_ROWS(T)                                          \
  template decltype(slots_scatter<T>) slots_scatter<T>;                   \
  template decltype(slots_scatter_backward<T>) slots_scatter_backward<T>; \
  template decltype(slots_gather_backward<T>) slots_gather_backward<T>;
WEFT_INSTANTIATE_ROWS(float)
WEFT_INSTANTIATE_ROWS(double)
WEFT_INSTANTIATE_ROWS(BF16)
#undef WEFT_INSTANTIATE_ROWS

}  // namespace weft::kernels
