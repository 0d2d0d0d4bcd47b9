// kernels/adamw.h - AdamW on a run of elements.
// Source: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2 (decoupled weight decay; PyTorch's form: decay * lr).
#pragma once

#include <cstdint>

#include "core/bf16.h"
#include "core/stream.h"

namespace weft::kernels {

struct AdamWOptions {
  double lr = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.0;
  std::int64_t step = 1;  ///< Number of this update, from 1: the bias correction's exponent.
};

/// What an update multiplies by, worked out on the host. Kernels read it from the stream's device: a launch that was
/// recorded once then takes the numbers of each step.
struct AdamWFactors {
  double beta1, rest1;  ///< rest: 1 - beta
  double beta2, rest2;
  double rate;         ///< lr over the bias correction of m.
  double correction2;  ///< 1 over the square root of the bias correction of v.
  double keep;         ///< 1 - lr * weight_decay
  double eps;
};
/// Throws kInvalidArgument for a step below 1 and for betas outside [0, 1).
[[nodiscard]] AdamWFactors adamw_factors(const AdamWOptions& options);

/// What global-norm clipping multiplies the gradient by: *factor = clip_norm / |g| where |g| is larger, else 1; NaN
/// when the loss or |g| is not finite. clip_norm 0: no clipping. loss, squares (|g|^2), factor: [1], on the stream's
/// device.
void clip_factor(Stream& stream, double* factor, const double* loss, const double* squares, double clip_norm);

/// What the optimizer keeps of each weight: the moments and, where weights are stored as BF16, the F32 weights that the
/// stored ones are rounded from (an update is often smaller than a BF16's last bit). [n] each.
template <class T>
struct AdamWState {
  Wide<T>* m = nullptr;
  Wide<T>* v = nullptr;
  Wide<T>* master = nullptr;  ///< BF16 alone; else the weights are their own.
};

/// n elements: m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr * (m_hat / (sqrt(v_hat) + eps) + decay * w), where
/// g = grad * *clip and w the master weight; weight = w, rounded once. A clip factor that is not finite leaves
/// everything as it is. clip (nullptr: 1) and factors: [1], on the stream's device, so that nobody waits for them.
template <class T>
void adamw(Stream& stream, T* weight, const AdamWState<T>& state, const Wide<T>* grad, std::int64_t n,
           const double* clip, const AdamWFactors* factors);

}  // namespace weft::kernels
