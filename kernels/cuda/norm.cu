// kernels/cuda/norm.cu - a block per row; formulas as in kernels/cpu/norm.cpp.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/columns.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T>
__global__ void rms_norm_forward_kernel(Matrix<T> y, Wide<T>* rstd, Matrix<const T> x, const T* weight, Wide<T> eps) {
  const T* in = x.row(blockIdx.x);
  T* out = y.row(blockIdx.x);
  Wide<T> sum = 0;
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) sum += in[j] * in[j];
  const Wide<T> r = Wide<T>(1) / std::sqrt(block_sum(sum) / static_cast<Wide<T>>(x.cols) + eps);
  if (rstd != nullptr && threadIdx.x == 0) rstd[blockIdx.x] = r;
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) out[j] = in[j] * r * weight[j];
}

template <class T>
__global__ void rms_norm_backward_kernel(Matrix<T> dx, Matrix<const T> dy, Matrix<const T> x, const Wide<T>* rstd,
                                         const T* weight, bool add) {
  const T *in = x.row(blockIdx.x), *d = dy.row(blockIdx.x);
  T* out = dx.row(blockIdx.x);
  const Wide<T> r = rstd[blockIdx.x];
  Wide<T> dot = 0;
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) dot += d[j] * in[j] * weight[j];
  const Wide<T> factor = r * r * r * block_sum(dot) / static_cast<Wide<T>>(x.cols);
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) {
    const Wide<T> value = r * d[j] * weight[j] - factor * in[j];
    out[j] = add ? out[j] + value : value;
  }
}

template <class T>
__global__ void layer_norm_forward_kernel(Matrix<T> y, Wide<T>* mean, Wide<T>* rstd, Matrix<const T> x, const T* weight,
                                          const T* bias, Wide<T> eps) {
  const T* in = x.row(blockIdx.x);
  T* out = y.row(blockIdx.x);
  const auto width = static_cast<Wide<T>>(x.cols);
  Wide<T> sum = 0;
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) sum += in[j];
  const Wide<T> m = block_sum(sum) / width;
  Wide<T> squares = 0;
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) squares += (in[j] - m) * (in[j] - m);
  const Wide<T> r = Wide<T>(1) / std::sqrt(block_sum(squares) / width + eps);
  if (threadIdx.x == 0) {
    if (mean != nullptr) mean[blockIdx.x] = m;
    if (rstd != nullptr) rstd[blockIdx.x] = r;
  }
  for (std::int64_t j = threadIdx.x; j < x.cols; j += blockDim.x) out[j] = (in[j] - m) * r * weight[j] + bias[j];
}

/// The rows that a layer norm's backward reads.
template <class T>
struct LayerNormRows {
  Matrix<const T> dy, x;
  const Wide<T>*mean, *rstd;
  __device__ Wide<T> x_hat(std::int64_t t, std::int64_t j) const { return (x.row(t)[j] - mean[t]) * rstd[t]; }
};

template <class T>
__global__ void layer_norm_backward_kernel(Matrix<T> dx, LayerNormRows<T> rows, const T* weight, bool add) {
  const std::int64_t t = blockIdx.x;
  const T* d = rows.dy.row(t);
  T* out = dx.row(t);
  const auto width = static_cast<Wide<T>>(dx.cols);
  Wide<T> sum = 0, dot = 0;
  for (std::int64_t j = threadIdx.x; j < dx.cols; j += blockDim.x) {
    const Wide<T> g = d[j] * weight[j];
    sum += g;
    dot += g * rows.x_hat(t, j);
  }
  const Wide<T> mean_g = block_sum(sum) / width, mean_dot = block_sum(dot) / width;
  for (std::int64_t j = threadIdx.x; j < dx.cols; j += blockDim.x) {
    const Wide<T> value = rows.rstd[t] * (d[j] * weight[j] - mean_g - rows.x_hat(t, j) * mean_dot);
    out[j] = add ? out[j] + value : value;
  }
}

template <class T>
struct RmsWeightTerm {
  Matrix<const T> dy, x;
  const Wide<T>* rstd;
  __device__ Wide<T> operator()(std::int64_t t, std::int64_t j) const { return dy.row(t)[j] * x.row(t)[j] * rstd[t]; }
};
template <class T>
struct LayerWeightTerm {
  LayerNormRows<T> rows;
  __device__ Wide<T> operator()(std::int64_t t, std::int64_t j) const { return rows.dy.row(t)[j] * rows.x_hat(t, j); }
};
template <class T>
struct BiasTerm {
  Matrix<const T> dy;
  __device__ Wide<T> operator()(std::int64_t t, std::int64_t j) const { return dy.row(t)[j]; }
};

template <class T>
void rms_norm_forward(Stream& stream, Matrix<T> y, Wide<T>* rstd, Matrix<const T> x, const T* weight, double eps) {
  launch(stream, rms_norm_forward_kernel<T>, per_row(x.rows, x.cols), y, rstd, x, weight, static_cast<Wide<T>>(eps));
}

template <class T>
void rms_norm_backward(Stream& stream, Matrix<T> dx, Wide<T>* dweight, Matrix<const T> dy, Matrix<const T> x,
                       const Wide<T>* rstd, const T* weight, Accumulate accumulate_dx, Accumulate accumulate_dw) {
  // the weight's gradient first: dx may be the memory of dy
  sum_columns(stream, dweight, x.rows, x.cols, RmsWeightTerm<T>{dy, x, rstd}, accumulate_dw);
  launch(stream, rms_norm_backward_kernel<T>, per_row(x.rows, x.cols), dx, dy, x, rstd, weight,
         accumulate_dx == Accumulate::kAdd);
}

template <class T>
void layer_norm_forward(Stream& stream, Matrix<T> y, Wide<T>* mean, Wide<T>* rstd, Matrix<const T> x, const T* weight,
                        const T* bias, double eps) {
  launch(stream, layer_norm_forward_kernel<T>, per_row(x.rows, x.cols), y, mean, rstd, x, weight, bias,
         static_cast<Wide<T>>(eps));
}

template <class T>
void layer_norm_backward(Stream& stream, Matrix<T> dx, Wide<T>* dweight, Wide<T>* dbias, Matrix<const T> dy,
                         Matrix<const T> x, const Wide<T>* mean, const Wide<T>* rstd, const T* weight,
                         Accumulate accumulate_dx, Accumulate accumulate_dw) {
  const LayerNormRows<T> rows{dy, x, mean, rstd};
  sum_columns(stream, dweight, x.rows, x.cols, LayerWeightTerm<T>{rows}, accumulate_dw);
  sum_columns(stream, dbias, x.rows, x.cols, BiasTerm<T>{dy}, accumulate_dw);
  launch(stream, layer_norm_backward_kernel<T>, per_row(x.rows, x.cols), dx, rows, weight,
         accumulate_dx == Accumulate::kAdd);
}

}  // namespace

template <class T>
void add_norm(RowKernels<T>& table) {
  table.rms_norm_forward = rms_norm_forward<T>;
  table.rms_norm_backward = rms_norm_backward<T>;
  table.layer_norm_forward = layer_norm_forward<T>;
  table.layer_norm_backward = layer_norm_backward<T>;
}

template void add_norm(RowKernels<float>& table);
template void add_norm(RowKernels<double>& table);
template void add_norm(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
