#include "parallel/attention/ring.h"

#include <algorithm>

#include "core/error.h"
#include "kernels/reduce.h"

namespace weft::parallel {
namespace {

/// Pairs (i, j) of queries at places [q, q + m) and keys at places [k, k + n) with the key not after the query.
double causal_pairs(std::int64_t q, std::int64_t m, std::int64_t k, std::int64_t n) {
  const auto up_to = [n](std::int64_t x) {  // sum over c <= x of clamp(c, 0, n)
    if (x <= 0) return 0.0;
    const double inside = static_cast<double>(std::min(x, n));
    return inside * (inside + 1.0) / 2.0 + static_cast<double>(std::max<std::int64_t>(x - n, 0) * n);
  };
  const std::int64_t first = q - k + 1;  // keys that the first query sees, if there were keys enough
  return up_to(first + m - 1) - up_to(first - 1);
}

void widen(std::int64_t& first, std::int64_t& rows, const Segment& s) {
  const std::int64_t end = rows == 0 ? s.local_off + s.len : std::max(first + rows, s.local_off + s.len);
  first = rows == 0 ? s.local_off : std::min(first, s.local_off);
  rows = end - first;
}

RingStep step_of(const std::vector<Segment>& queries, const std::vector<Segment>& keys, int source) {
  RingStep step;
  step.source = source;
  Tile tile;
  for (const Segment& q : queries)
    for (const Segment& k : keys) {
      const double pairs = causal_pairs(q.pos0, q.len, k.pos0, k.len);
      if (pairs == 0.0) continue;
      step.pairs += pairs;
      widen(tile.q_first, tile.q_rows, q);
      widen(tile.k_first, tile.k_rows, k);
    }
  if (tile.q_rows > 0) step.tiles.push_back(tile);
  return step;
}

/// The block's tiles for each of its sequences: visit(first query row, query rows, first key row, key rows).
template <class Visit>
void for_each_tile(const RingBlock& block, const Visit& visit) {
  for (std::int64_t s = 0; s < block.sequences; ++s)
    for (const Tile& t : block.step->tiles)
      visit(s * block.rows_per_sequence + t.q_first, t.q_rows, s * block.rows_per_sequence + t.k_first, t.k_rows);
}

template <class T>
kernels::AttentionInputs<T> part_of(const kernels::AttentionInputs<T>& in, std::int64_t q, std::int64_t q_rows,
                                    std::int64_t k, std::int64_t k_rows) {
  return {in.q.row_range(q, q_rows),
          in.k.row_range(k, k_rows),
          in.v.row_range(k, k_rows),
          {in.q_rows.segment + q, in.q_rows.position + q},
          {in.k_rows.segment + k, in.k_rows.position + k}};
}

}  // namespace

std::vector<RingStep> ring_steps(const Layout& core, int ring_rank) {
  const int size = static_cast<int>(core.ranks.size());
  const std::vector<Segment>& mine = core.ranks[static_cast<std::size_t>(ring_rank)];
  std::vector<RingStep> steps;
  for (int s = 0; s < size; ++s) {
    const int source = (ring_rank - s + size) % size;
    steps.push_back(step_of(mine, core.ranks[static_cast<std::size_t>(source)], source));
  }
  return steps;
}

template <class T>
void ring_forward(Stream& stream, const RingState<T>& state, const kernels::AttentionInputs<T>& in,
                  const kernels::AttentionShape& shape, const RingBlock& block) {
  for_each_tile(block, [&](std::int64_t q, std::int64_t q_rows, std::int64_t k, std::int64_t k_rows) {
    const kernels::AttentionInputs<T> part = part_of(in, q, q_rows, k, k_rows);
    const auto at_queries = [&](auto m) { return m.row_range(q, q_rows); };
    if constexpr (std::is_same_v<T, Wide<T>>)
      if (block.first)
        return kernels::attention_forward<T>(stream, at_queries(state.out), at_queries(state.lse), part, shape);
    kernels::attention_forward<T>(stream, at_queries(state.part_out),
                                  at_queries(block.first ? state.lse : state.part_lse), part, shape);
    if (block.first)
      kernels::widen<T>(stream, at_queries(state.out), Matrix<const T>(at_queries(state.part_out)));
    else
      kernels::attention_merge<T>(stream, at_queries(state.out), at_queries(state.lse), at_queries(state.part_out),
                                  at_queries(state.part_lse));
  });
}

template <class T>
void ring_backward(Stream& stream, const kernels::AttentionGradients<T>& grad, const RingOutputs<T>& outputs,
                   const kernels::AttentionInputs<T>& in, const kernels::AttentionShape& shape,
                   const RingBlock& block) {
  for_each_tile(block, [&](std::int64_t q, std::int64_t q_rows, std::int64_t k, std::int64_t k_rows) {
    const kernels::AttentionGradients<T> part{
        grad.dq.row_range(q, q_rows), grad.dk.row_range(k, k_rows), grad.dv.row_range(k, k_rows),
        block.first ? kernels::Accumulate::kOverwrite : kernels::Accumulate::kAdd};
    kernels::attention_backward<T>(stream, part, outputs.dout.row_range(q, q_rows), outputs.out.row_range(q, q_rows),
                                   outputs.lse.row_range(q, q_rows), part_of(in, q, q_rows, k, k_rows), shape);
  });
}

#define WEFT_INSTANTIATE(T)                           \
  template decltype(ring_forward<T>) ring_forward<T>; \
  template decltype(ring_backward<T>) ring_backward<T>;
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
