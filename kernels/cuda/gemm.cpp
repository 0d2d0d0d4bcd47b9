// kernels/cuda/gemm.cpp - linear layers of one matrix, and of experts in one launch of products of different heights.
#include <cuda_runtime.h>

#include <vector>

#include "core/cuda/memory.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/blas.h"
#include "kernels/reduce.h"

namespace weft::kernels::cuda {
namespace {

template <class T>
void gemm(Stream& stream, Matrix<T> c, Matrix<const T> a, Transpose trans_a, Matrix<const T> b, Transpose trans_b,
          Wide<T> alpha, Accumulate accumulate) {
  multiply(stream, c, a, trans_a, b, trans_b, alpha, accumulate);
}

template <class T>
void linear_forward(Stream& stream, Matrix<T> y, Matrix<const T> x, Matrix<const T> w, const T* bias) {
  if (bias != nullptr) broadcast_row(stream, y, bias);
  multiply(stream, y, x, Transpose::kNo, w, Transpose::kYes, Wide<T>(1),
           bias ? Accumulate::kAdd : Accumulate::kOverwrite);
}

template <class T>
void linear_backward_input(Stream& stream, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> w, Accumulate accumulate) {
  multiply(stream, dx, dy, Transpose::kNo, w, Transpose::kNo, Wide<T>(1), accumulate);
}

template <class T>
void linear_backward_weight(Stream& stream, Matrix<Wide<T>> dw, Wide<T>* dbias, Matrix<const T> dy, Matrix<const T> x,
                            Accumulate accumulate) {
  multiply(stream, dw, dy, Transpose::kYes, x, Transpose::kNo, Wide<T>(1), accumulate);
  if (dbias != nullptr) kernels::sum_rows<T>(stream, dbias, dy, accumulate);
}

void linear_forward_wide(Stream& stream, Matrix<float> y, Matrix<const BF16> x, Matrix<const BF16> w) {
  multiply(stream, y, x, Transpose::kNo, w, Transpose::kYes, 1.0F, Accumulate::kOverwrite);
}

/// dy as BF16, in room that the stream takes back behind the products.
class Narrowed {
 public:
  Narrowed(Stream& stream, Matrix<const float> dy)
      : room_(static_cast<cudaStream_t>(stream.native()), dy.rows * dy.cols), rows_(room_.data(), dy.rows, dy.cols) {
    kernels::narrow<BF16>(stream, rows_, dy);
  }
  [[nodiscard]] Matrix<const BF16> rows() const { return rows_; }

 private:
  weft::cuda::StreamScratch<BF16> room_;
  Matrix<BF16> rows_;
};

void linear_backward_input_wide(Stream& stream, Matrix<BF16> dx, Matrix<const float> dy, Matrix<const BF16> w,
                                Accumulate accumulate) {
  const Narrowed d(stream, dy);
  multiply(stream, dx, d.rows(), Transpose::kNo, w, Transpose::kNo, 1.0F, accumulate);
}

void linear_backward_weight_wide(Stream& stream, Matrix<float> dw, Matrix<const float> dy, Matrix<const BF16> x,
                                 Accumulate accumulate) {
  const Narrowed d(stream, dy);
  multiply(stream, dw, d.rows(), Transpose::kYes, x, Transpose::kNo, 1.0F, accumulate);
}

template <class T>
Matrix<T> weight_of(const ExpertWeights<T>& w, std::size_t e) {
  return {w.data + static_cast<std::int64_t>(e) * w.expert_stride, w.out_width, w.in_width};
}
template <class T>
T* bias_of(const ExpertWeights<T>& w, std::size_t e) {
  return w.bias == nullptr ? nullptr : w.bias + static_cast<std::int64_t>(e) * w.bias_stride;
}
template <class T>
Matrix<T> rows_of(Matrix<T> m, std::span<const std::int64_t> offsets, std::size_t e) {
  return m.row_range(offsets[e], offsets[e + 1] - offsets[e]);
}

template <class T>
void grouped_linear_forward(Stream& stream, Matrix<T> y, Matrix<const T> x, ExpertWeights<const T> w,
                            std::span<const std::int64_t> offsets) {
  std::vector<GemmProduct<T, T>> products;
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    products.push_back({rows_of(y, offsets, e), rows_of(x, offsets, e), weight_of(w, e)});
    if (const T* bias = bias_of(w, e)) broadcast_row(stream, products.back().c, bias);
  }
  multiply_group<T, T>(stream, products, Transpose::kNo, Transpose::kYes,
                       w.bias != nullptr ? Accumulate::kAdd : Accumulate::kOverwrite);
}

template <class T>
void grouped_linear_backward_input(Stream& stream, Matrix<T> dx, Matrix<const T> dy, ExpertWeights<const T> w,
                                   std::span<const std::int64_t> offsets, Accumulate accumulate) {
  std::vector<GemmProduct<T, T>> products;
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e)
    products.push_back({rows_of(dx, offsets, e), rows_of(dy, offsets, e), weight_of(w, e)});
  multiply_group<T, T>(stream, products, Transpose::kNo, Transpose::kNo, accumulate);
}

template <class T>
void grouped_linear_backward_weight(Stream& stream, ExpertWeights<Wide<T>> dw, Matrix<const T> dy, Matrix<const T> x,
                                    std::span<const std::int64_t> offsets, Accumulate accumulate) {
  std::vector<GemmProduct<T, Wide<T>>> products;
  for (std::size_t e = 0; e + 1 < offsets.size(); ++e) {
    products.push_back({weight_of(dw, e), rows_of(dy, offsets, e), rows_of(x, offsets, e)});
    if (Wide<T>* dbias = bias_of(dw, e)) kernels::sum_rows<T>(stream, dbias, products.back().a, accumulate);
  }
  multiply_group<T, Wide<T>>(stream, products, Transpose::kYes, Transpose::kNo, accumulate);
}

}  // namespace

template <class T>
void add_gemm(RowKernels<T>& table) {
  table.gemm = gemm<T>;
  table.gemm_group = multiply_group<T, T>;
  table.linear_forward = linear_forward<T>;
  table.linear_backward_input = linear_backward_input<T>;
  table.linear_backward_weight = linear_backward_weight<T>;
  table.grouped_linear_forward = grouped_linear_forward<T>;
  table.grouped_linear_backward_input = grouped_linear_backward_input<T>;
  table.grouped_linear_backward_weight = grouped_linear_backward_weight<T>;
}

void add_wide_linear(Backend<BF16>& table) {
  table.gemm_group_wide = multiply_group<BF16, float>;
  table.linear_forward_wide = linear_forward_wide;
  table.linear_backward_input_wide = linear_backward_input_wide;
  table.linear_backward_weight_wide = linear_backward_weight_wide;
}

template void add_gemm(RowKernels<float>& table);
template void add_gemm(RowKernels<double>& table);
template void add_gemm(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
