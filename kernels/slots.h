// kernels/slots.h - routing where experts choose: slots that take tokens, or mixtures of them.
// Letters: T rows in G groups of n = T / G consecutive rows, E experts, C slots of an expert and group, S = E * C
// columns. A table [G * C, E] has slot j of expert e in group g at (g * C + j, e).
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/gemm.h"
#include "kernels/routing_groups.h"

namespace weft::kernels {

/// Each expert takes the C rows of each group with its largest scores, ties to the earlier row of the group; in its
/// slots they stand in the group's order. Scores (not negative) are compared by the upper 40 of 52 bits of their
/// mantissa (f32: 15 of 23): equal tokens must tie, and a layout that computes their rows in other places may round
/// them differently. source, weight, kept: [G * C, E]: the row, counted from groups.first, its score, the expert; of
/// rows that no results are wanted for 0, the score, -1. scores: [T, E]; C <= n. Source: expert choice routing,
/// arXiv:2202.09368, section 3.
template <class T>
struct SlotTable {
  using Index = std::conditional_t<std::is_const_v<T>, const std::int32_t, std::int32_t>;
  Matrix<Index> source, kept;
  Matrix<T> weight;
};
template <class T>
void expert_choice(Stream& stream, const SlotTable<T>& table, Matrix<const T> scores, const RoutingGroups& groups);

/// d_scores[source[d, e], e] = d_weight[d, e] for the slots whose expert is kept (not -1), 0 elsewhere: the gradient of
/// expert_choice. source, kept, d_weight: [N, E]; d_scores: [T, E]. No two slots of an expert hold one token.
template <class T>
void expert_choice_backward(Stream& stream, Matrix<T> d_scores, const SlotTable<const T>& table);

/// kept[d, e] = e for the experts [first, end), -1 for the others: all slots of some experts. kept: [N, E].
void keep_experts(Stream& stream, Matrix<std::int32_t> kept, std::int64_t first, std::int64_t end);
/// The kept choices of tokens in slots. Those of each group and expert fill its first slots there, by (row, choice);
/// the others stay empty: source -1, weight 0. All slots are kept. place[t, k] = d * E + e for a choice in slot (d, e),
/// -1 where kept is -1. kept (i32, at most C of an expert in a group), weight, place: [T, K].
template <class T>
void fill_slots(Stream& stream, const SlotTable<T>& table, Matrix<std::int32_t> place, Matrix<const std::int32_t> kept,
                Matrix<const T> weight, std::int64_t group_rows);

/// lse[i] = log of the sum over r of exp(parts[r, i]). parts: [R, n], lse: [n].
template <class T>
void merge_logsumexp(Stream& stream, T* lse, Matrix<const T> parts);
/// lse[g, s] = log of the sum over the group's rows of exp(z[t, s]). z: [T, S], lse: [G, S].
template <class T>
void column_logsumexp(Stream& stream, Matrix<T> lse, Matrix<const T> z, std::int64_t group_rows);
/// Softmax down the columns of each group: out = exp(z - lse). Where a group has rows elsewhere too, lse is over all.
template <class T>
void column_softmax_forward(Stream& stream, Matrix<T> out, Matrix<const T> z, Matrix<const T> lse,
                            std::int64_t group_rows);
/// dot[g, s] = sum over the group's rows of dout * out. dot: [G, S].
template <class T>
void column_dot(Stream& stream, Matrix<T> dot, Matrix<const T> dout, Matrix<const T> out, std::int64_t group_rows);
/// dz += out * (dout - dot), the backward of the softmax; out, dout, dz: [T, S].
template <class T>
struct ColumnSoftmaxGradient {
  Matrix<const T> dout, out, dot;
};
template <class T>
void column_softmax_backward(Stream& stream, Matrix<T> dz, const ColumnSoftmaxGradient<T>& grad,
                             std::int64_t group_rows);

/// Entries of a table of slots whose rows travel. row: where the entry's row stands (-1: nowhere); source: its token
/// (-1: none, an empty slot). Both [N, E], weight: [N, E].
struct SlotRows {
  Matrix<const std::int32_t> row, source;
};
/// out[source] += weight * rows[row] over all entries, experts of a slot in ascending order, slots in ascending order.
template <class T>
void slots_scatter(Stream& stream, Matrix<T> out, Matrix<const T> rows, const SlotRows& slots,
                   Matrix<const Wide<T>> weight);
/// Its backward: d_rows[d_row] = weight * dout[source] and d_weight = <dout[source], rows[row]>. Where row is -1,
/// d_weight is 0; so it is where source is -1, and the row of d_rows too.
template <class T>
struct SlotsGradient {
  Matrix<T> d_rows;
  Matrix<Wide<T>> d_weight;
  Matrix<const std::int32_t> d_row;
};
template <class T>
void slots_scatter_backward(Stream& stream, const SlotsGradient<T>& grad, Matrix<const T> dout, Matrix<const T> rows,
                            const SlotRows& slots, Matrix<const Wide<T>> weight);
/// dx[source] += d_rows[row] over all entries: the backward of gathering tokens into slots.
template <class T>
void slots_gather_backward(Stream& stream, Matrix<T> dx, Matrix<const T> d_rows, const SlotRows& slots);

}  // namespace weft::kernels
