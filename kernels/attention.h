// kernels/attention.h - exact softmax attention in blocks, with online softmax: never an S x S matrix.
// Source: FlashAttention-2, Dao, arXiv:2307.08691, algorithms 1 and 2.
// Letters: Tq query rows, Tk key rows, Hq query heads, Hkv key/value heads (Hq a multiple of Hkv: grouped-query
// attention, arXiv:2305.13245; query head h reads key/value head h / (Hq / Hkv)), d head width.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/gemm.h"

namespace weft::kernels {

/// Which keys a query sees: those of the same segment at a position not after its own. A segment is whatever must not
/// see across its border (one sequence of the batch, or one document of it). Both arrays in memory of the stream's
/// device. On the CPU, within the rows of one call, segments are contiguous runs of equal ids and positions ascend in a
/// run (else kInvalidArgument); CUDA takes rows in any order. Any layout of rows between calls (contiguous, zigzag,
/// striped) is fine: the mask is read from here, never from row numbers.
struct AttentionRows {
  const std::int32_t* segment = nullptr;   ///< [T]
  const std::int32_t* position = nullptr;  ///< [T]
};

struct AttentionShape {
  std::int64_t num_heads = 0;     ///< Hq
  std::int64_t num_kv_heads = 0;  ///< Hkv
  std::int64_t head_dim = 0;      ///< d
  double scale = 0.0;             ///< Factor on q k^T; usually 1 / sqrt(d).
};

template <class T>
struct AttentionInputs {
  Matrix<const T> q;  ///< [Tq, Hq * d]
  Matrix<const T> k;  ///< [Tk, Hkv * d]
  Matrix<const T> v;  ///< [Tk, Hkv * d]
  AttentionRows q_rows;
  AttentionRows k_rows;
};

/// out: [Tq, Hq * d]; lse: [Tq, Hq], the log of each row's softmax denominator (scaled scores). A query that sees no
/// key gets out = 0 and lse = -infinity.
template <class T>
void attention_forward(Stream& stream, Matrix<T> out, Matrix<Wide<T>> lse, const AttentionInputs<T>& in,
                       const AttentionShape& shape);

/// Joins attention over one set of keys with attention over another: out, lse become those of all keys, exactly. out,
/// part_out: [T, Hq * d]; lse, part_lse: [T, Hq]; updated in place, out unrounded. Associative, and (0, -infinity), a
/// query that saw no key, changes nothing. Source: FlashAttention-2 section 3.1.1; lse = max +
/// log1p(exp(-|difference|)), which neither overflows for large differences nor turns two infinities into NaN.
template <class T>
void attention_merge(Stream& stream, Matrix<Wide<T>> out, Matrix<Wide<T>> lse, Matrix<const T> part_out,
                     Matrix<const Wide<T>> part_lse);

/// Gradients of q, k, v from dout, with out and lse as the forward gave them. With out and lse of all keys (after
/// attention_merge), the gradients of a block of keys are its part of the whole: dq adds up over the blocks.
template <class T>
struct AttentionGradients {
  Matrix<T> dq;
  Matrix<T> dk;
  Matrix<T> dv;
  Accumulate dq_mode = Accumulate::kOverwrite;  ///< dk and dv are always overwritten.
};
template <class T>
void attention_backward(Stream& stream, const AttentionGradients<T>& grad, Matrix<const T> dout, Matrix<const T> out,
                        Matrix<const Wide<T>> lse, const AttentionInputs<T>& in, const AttentionShape& shape);

}  // namespace weft::kernels
