// kernels/cross_entropy.h - softmax cross-entropy over the vocabulary, loss and gradient in one pass.
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"

namespace weft::kernels {

inline constexpr std::int32_t kIgnoreTarget = -1;  ///< A row with this target has loss 0 and gradient 0.

/// loss[t] = logsumexp(logits[t]) - logits[t, target[t]]. logits: [T, V]; target: [T]; loss: [T], always f64.
/// With `grad_scale` != nullptr, logits become dL/dlogits = (softmax - onehot) * *grad_scale in place; else they stay.
/// grad_scale: [1]; like all else on the stream's device.
/// A target outside [0, V) other than kIgnoreTarget throws kInvalidArgument.
template <class T>
void cross_entropy(Stream& stream, double* loss, Matrix<T> logits, const std::int32_t* target,
                   const double* grad_scale);

}  // namespace weft::kernels
