// parallel/attention/ring.h - ring attention: queries stay, keys and values go round, and each step's part is merged.
// Sources: Ring Attention, arXiv:2310.01889; zigzag cases and the travelling dK and dV: zhuzilin/ring-flash-attention.
// At step s, rank r of P holds the keys and values of rank (r - s) mod P, which came from rank r - 1. What is merged
// (out, lse, dQ) and what travels back (dK, dV) is F32 at least: the error does not grow with the ring.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "parallel/attention/layout.h"

namespace weft::parallel {

/// A rectangle of queries and keys that meet, as rows of one sequence on their ranks. Finer masking is the kernel's.
struct Tile {
  std::int64_t q_first = 0, q_rows = 0;
  std::int64_t k_first = 0, k_rows = 0;
  friend bool operator==(const Tile&, const Tile&) = default;
};

struct RingStep {
  int source = 0;           ///< Ring rank whose keys and values are here.
  std::vector<Tile> tiles;  ///< None where all is masked; rows outside of them meet nothing.
  double pairs = 0.0;       ///< Queries times the keys they see, over the sequence: 4 d FLOPs each per head, forward.
};

/// The steps of `ring_rank` for a layout of one sequence, after gather_heads. Tiles leave out what is masked by places
/// in the sequence alone, whatever its documents: in zigzag order, half of each foreign block.
[[nodiscard]] std::vector<RingStep> ring_steps(const Layout& core, int ring_rank);

/// One step for several sequences of equal layout.
struct RingBlock {
  const RingStep* step = nullptr;
  std::int64_t sequences = 0;
  std::int64_t rows_per_sequence = 0;  ///< Of one ring rank.
  bool first = false;                  ///< The rank's own keys: every query meets some.
};

/// The merged result so far and the place for a step's part, which the first step needs only where rows are narrower
/// than out. out, part_out: [R, H d]; lse, part_lse: [R, H].
template <class T>
struct RingState {
  Matrix<Wide<T>> out;
  Matrix<Wide<T>> lse;
  Matrix<T> part_out;
  Matrix<Wide<T>> part_lse;
};

/// Merges attention over the step's keys into `state`. The first step starts it afresh.
template <class T>
void ring_forward(Stream& stream, const RingState<T>& state, const kernels::AttentionInputs<T>& in,
                  const kernels::AttentionShape& shape, const RingBlock& block);

/// What the backward of every step reads: out and lse are the merged ones, of all keys.
template <class T>
struct RingOutputs {
  Matrix<const T> dout, out;
  Matrix<const Wide<T>> lse;
};

/// dq += this step's part (the first step starts it afresh); dk, dv: the step's part. Where rows meet nothing, which
/// the first step has not, they stay as they are.
template <class T>
void ring_backward(Stream& stream, const kernels::AttentionGradients<T>& grad, const RingOutputs<T>& outputs,
                   const kernels::AttentionInputs<T>& in, const kernels::AttentionShape& shape, const RingBlock& block);

}  // namespace weft::parallel
