// parallel/step/feed_forward.h - the activation between the two products of a feed-forward network, by family.
#pragma once

#include "kernels/activation.h"
#include "parallel/model/model_config.h"

namespace weft::parallel {

/// kMixtral: pre = [gate, up], hidden = silu(gate) * up. kGpt2Moe: hidden = gelu(pre).
[[nodiscard]] inline bool is_gated(ModelFamily family) { return family == ModelFamily::kMixtral; }

template <class T>
void activation_forward(Stream& stream, ModelFamily family, Matrix<T> hidden, Matrix<const T> pre) {
  if (is_gated(family))
    kernels::swiglu_forward<T>(stream, hidden, pre);
  else
    kernels::gelu_forward<T>(stream, hidden, pre);
}

template <class T>
void activation_backward(Stream& stream, ModelFamily family, Matrix<T> d_pre, Matrix<const T> d_hidden,
                         Matrix<const T> pre) {
  if (is_gated(family))
    kernels::swiglu_backward<T>(stream, d_pre, d_hidden, pre);
  else
    kernels::gelu_backward<T>(stream, d_pre, d_hidden, pre);
}

}  // namespace weft::parallel
