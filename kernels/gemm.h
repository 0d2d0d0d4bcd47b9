// kernels/gemm.h - dense matrix products, and the three products of a linear layer.
// Letters: T rows (tokens), I input width, O output width.
#pragma once

#include <span>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/stream.h"

namespace weft::kernels {

enum class Transpose : bool { kNo, kYes };
/// Whether a result replaces what is there or is added to it. kOverwrite never reads the destination.
enum class Accumulate : bool { kOverwrite, kAdd };

/// Threads that a matrix product on the CPU may use, for this process; below 1 counts as 1. One until called: a rank
/// owns one core. Not to be called while kernels run.
void set_blas_threads(int num_threads);

/// c = alpha * op(a) op(b), or c += .... Throws kInvalidArgument when the shapes do not fit. Empty shapes are fine:
/// with an inner width of 0 and kOverwrite, c is set to zero.
template <class T>
void gemm(Stream& stream, Matrix<T> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b,
          Wide<T> alpha = Wide<T>(1), Accumulate accumulate = Accumulate::kOverwrite);

/// One product of several.
template <class T, class Out = T>
struct GemmProduct {
  Matrix<Out> c;
  Matrix<const T> a, b;
};
/// c = op(a) op(b), or c += ..., of each: on a GPU in one launch. Shapes may differ and be empty; no c overlaps
/// another. Out: T, or Wide<T>, which is not rounded. products: on the host, read before the call returns.
template <class T, class Out = T>
void gemm_group(Stream& stream, std::span<const GemmProduct<T, Out>> products, Transpose trans_a, Transpose trans_b,
                Accumulate accumulate = Accumulate::kOverwrite);

/// y = x w^T (+ bias). y: [T, O]; x: [T, I]; w: [O, I]; bias: [O] or nullptr.
template <class T>
void linear_forward(Stream& stream, Matrix<T> y, Matrix<const T> x, Matrix<const T> w, const T* bias = nullptr);

/// dx = dy w, or dx += dy w. dx: [T, I]; dy: [T, O]; w: [O, I].
template <class T>
void linear_backward_input(Stream& stream, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> w, Accumulate accumulate);

/// dw = dy^T x and dbias = column sums of dy (dbias may be nullptr), or +=. dw: [O, I]; dbias: [O].
/// T = 0 with kOverwrite sets both to zero.
template <class T>
void linear_backward_weight(Stream& stream, Matrix<Wide<T>> dw, Wide<T>* dbias, Matrix<const T> dy, Matrix<const T> x,
                            Accumulate accumulate);

/// The same for results that rounding would spoil, such as the logits of a router: y stays in F32. Its gradient dy may
/// be rounded on the way into the products. For rows of F32 and F64 these are the functions above, without a bias.
template <class T>
void linear_forward_wide(Stream& stream, Matrix<Wide<T>> y, Matrix<const T> x, Matrix<const T> w);
template <class T>
void linear_backward_input_wide(Stream& stream, Matrix<T> dx, Matrix<const Wide<T>> dy, Matrix<const T> w,
                                Accumulate accumulate);
template <class T>
void linear_backward_weight_wide(Stream& stream, Matrix<Wide<T>> dw, Matrix<const Wide<T>> dy, Matrix<const T> x,
                                 Accumulate accumulate);

}  // namespace weft::kernels
