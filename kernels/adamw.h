// kernels/adamw.h - AdamW on a run of elements.
// Source: Loshchilov and Hutter, arXiv:1711.05101, algorithm 2 (decoupled weight decay; PyTorch's form: decay * lr).
#pragma once

#include <cstdint>

#include "core/stream.h"

namespace weft::kernels {

struct AdamWOptions {
  double lr = 0.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.0;
  double grad_scale = 1.0;  ///< Factor on the gradient (global-norm clipping).
  std::int64_t step = 1;    ///< Number of this update, from 1: the bias correction's exponent.
};

/// n elements: m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w -= lr * (m_hat / (sqrt(v_hat) + eps) + decay * w).
template <class T>
void adamw(Stream& stream, T* weight, T* m, T* v, const T* grad, std::int64_t n, const AdamWOptions& options);

}  // namespace weft::kernels
