// kernels/grouped_gemm.h - the linear layers of L experts over rows sorted by expert.
// Letters: R rows of all local experts, L local experts, I input width, O output width.
#pragma once

#include <cstdint>
#include <span>
#include <type_traits>

#include "core/bf16.h"
#include "kernels/gemm.h"

namespace weft::kernels {

/// Weights of L experts, each [O, I] row-major, expert e at data + e * expert_stride; bias [O] likewise, or nullptr.
template <class T>
struct ExpertWeights {
  T* data = nullptr;
  std::int64_t expert_stride = 0;  ///< Elements from one expert's weight to the next.
  T* bias = nullptr;
  std::int64_t bias_stride = 0;
  std::int64_t out_width = 0;  ///< O
  std::int64_t in_width = 0;   ///< I

  operator ExpertWeights<const T>() const requires(!std::is_const_v<T>) {
    return {data, expert_stride, bias, bias_stride, out_width, in_width};
  }
};

/// Rows [offsets[e], offsets[e+1]) belong to expert e; offsets: [L + 1], in host memory, ascending, offsets[0] = 0 not
/// required. An expert without rows is fine everywhere.

/// y[rows of e] = x[rows of e] w_e^T (+ bias_e). y: [R, O]; x: [R, I].
template <class T>
void grouped_linear_forward(Stream& stream, Matrix<T> y, Matrix<const T> x, ExpertWeights<const T> w,
                            std::span<const std::int64_t> offsets);

/// dx[rows of e] = dy[rows of e] w_e. dx: [R, I]; dy: [R, O].
template <class T>
void grouped_linear_backward_input(Stream& stream, Matrix<T> dx, Matrix<const T> dy, ExpertWeights<const T> w,
                                   std::span<const std::int64_t> offsets, Accumulate accumulate);

/// dw_e = dy_e^T x_e and dbias_e = column sums of dy_e, or +=. An expert without rows: zero (kOverwrite) or untouched.
template <class T>
void grouped_linear_backward_weight(Stream& stream, ExpertWeights<Wide<T>> dw, Matrix<const T> dy, Matrix<const T> x,
                                    std::span<const std::int64_t> offsets, Accumulate accumulate);

}  // namespace weft::kernels
