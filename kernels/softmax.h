// kernels/softmax.h - softmax of rows. Letters: T rows, E columns.
#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace weft::kernels {

/// probs = softmax(logits) by row; lse[t] = logsumexp(logits[t]) (may be nullptr). logits, probs: [T, E].
template <class T>
void softmax_forward(Stream& stream, Matrix<T> probs, T* lse, Matrix<const T> logits);
/// dlogits = probs * (dprobs - <dprobs, probs>) by row (overwritten; may be the memory of dprobs).
template <class T>
void softmax_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> dprobs, Matrix<const T> probs);

}  // namespace weft::kernels
