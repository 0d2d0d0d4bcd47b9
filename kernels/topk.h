// kernels/topk.h - softmax over experts and the choice of the K best.
// Letters: T rows, E experts, K choices per row.
#pragma once

#include <cstdint>

#include "core/matrix.h"
#include "core/stream.h"

namespace weft::kernels {

/// probs = softmax(logits) by row; lse[t] = logsumexp(logits[t]) (may be nullptr). logits, probs: [T, E].
template <class T>
void softmax_forward(Stream& stream, Matrix<T> probs, T* lse, Matrix<const T> logits);
/// dlogits = probs * (dprobs - <dprobs, probs>) by row (overwritten; may be the memory of dprobs).
template <class T>
void softmax_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> dprobs, Matrix<const T> probs);

/// expert[t] = the K columns with the largest score, best first; ties go to the lower column. expert: [T, K].
/// K > E throws kInvalidArgument. NaN sorts below everything.
template <class T>
void top_k(Stream& stream, Matrix<std::int32_t> expert, Matrix<const T> scores);

}  // namespace weft::kernels
