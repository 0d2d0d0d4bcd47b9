// kernels/cuda/softmax.cu - softmax of rows.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/row_shift.cuh"

namespace weft::kernels::cuda {
namespace {

template <class T>
__global__ void softmax_forward_kernel(Matrix<T> probs, T* lse, Matrix<const T> logits) {
  const T* in = logits.row(blockIdx.x);
  T* out = probs.row(blockIdx.x);
  const T shift = shift_of(in, logits.cols);
  T sum = 0;
  for (std::int64_t j = threadIdx.x; j < logits.cols; j += blockDim.x) {
    const T e = std::exp(in[j] - shift);
    out[j] = e;
    sum += e;
  }
  sum = block_sum(sum);
  const T inverse = T(1) / sum;
  for (std::int64_t j = threadIdx.x; j < logits.cols; j += blockDim.x) out[j] *= inverse;
  if (lse != nullptr && threadIdx.x == 0) lse[blockIdx.x] = shift + std::log(sum);
}

template <class T>
__global__ void softmax_backward_kernel(Matrix<T> dlogits, Matrix<const T> dprobs, Matrix<const T> probs) {
  const T *p = probs.row(blockIdx.x), *dp = dprobs.row(blockIdx.x);
  T* out = dlogits.row(blockIdx.x);
  T dot = 0;
  for (std::int64_t j = threadIdx.x; j < probs.cols; j += blockDim.x) dot += p[j] * dp[j];
  dot = block_sum(dot);
  for (std::int64_t j = threadIdx.x; j < probs.cols; j += blockDim.x) out[j] = p[j] * (dp[j] - dot);
}

template <class T>
void softmax_forward(Stream& stream, Matrix<T> probs, T* lse, Matrix<const T> logits) {
  launch(stream, softmax_forward_kernel<T>, per_row(logits.rows, logits.cols), probs, lse, logits);
}
template <class T>
void softmax_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> dprobs, Matrix<const T> probs) {
  launch(stream, softmax_backward_kernel<T>, per_row(probs.rows, probs.cols), dlogits, dprobs, probs);
}

}  // namespace

template <class T>
void add_softmax(Backend<T>& table) {
  table.softmax_forward = softmax_forward<T>;
  table.softmax_backward = softmax_backward<T>;
}

template void add_softmax(Backend<float>& table);
template void add_softmax(Backend<double>& table);

}  // namespace weft::kernels::cuda
