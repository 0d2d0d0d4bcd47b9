// kernels/cuda/softmax.cu - softmax, the K best, and cross-entropy over rows.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {
namespace {

/// The largest of a row, or 0 where that is -infinity. All threads of the block must call.
template <class T>
__device__ T shift_of(const T* row, std::int64_t cols) {
  T max = -std::numeric_limits<T>::infinity();
  for (std::int64_t j = threadIdx.x; j < cols; j += blockDim.x) max = row[j] > max ? row[j] : max;
  return finite_or_zero(block_max(max));
}

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

/// A column and its score, or none: behind every column there is.
template <class T>
struct Candidate {
  T score = std::numeric_limits<T>::quiet_NaN();
  std::int32_t column = std::numeric_limits<std::int32_t>::max();
};

/// Larger scores first, NaN last, ties to the lower column: a total order.
template <class T>
__device__ bool precedes(const Candidate<T>& a, const Candidate<T>& b) {
  const bool nan_a = a.score != a.score, nan_b = b.score != b.score;
  if (a.score > b.score || (nan_b && !nan_a)) return true;
  if (b.score > a.score || (nan_a && !nan_b)) return false;
  return a.column < b.column;
}

/// A warp per row. Each round takes the first of those behind the last one taken.
template <class T>
__global__ void top_k_kernel(Matrix<std::int32_t> expert, Matrix<const T> scores) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_id();
  if (t >= scores.rows) return;
  const T* row = scores.row(t);
  Candidate<T> last;
  for (std::int64_t k = 0; k < expert.cols; ++k) {
    Candidate<T> best;
    for (std::int64_t j = lane_id(); j < scores.cols; j += kWarp) {
      const Candidate<T> here{row[j], static_cast<std::int32_t>(j)};
      if ((k == 0 || precedes(last, here)) && precedes(here, best)) best = here;
    }
    for (int step = kWarp / 2; step > 0; step /= 2) {
      const Candidate<T> other{__shfl_xor_sync(kAllLanes, best.score, step),
                               __shfl_xor_sync(kAllLanes, best.column, step)};
      if (precedes(other, best)) best = other;
    }
    if (lane_id() == 0) expert.row(t)[k] = best.column;
    last = best;
  }
}

/// A block per row: its loss; with `gradient`, the row becomes its gradient times `scale`.
template <class T>
__global__ void cross_entropy_kernel(double* loss, Matrix<T> logits, const std::int32_t* target, bool gradient, T scale,
                                     std::uint64_t* fault) {
  T* row = logits.row(blockIdx.x);
  const std::int32_t wanted = target[blockIdx.x];
  const bool counts = wanted >= 0 && wanted < logits.cols;
  if (!counts) {  // the whole block agrees
    if (wanted != kIgnoreTarget && threadIdx.x == 0) report(fault, FaultSite::kTarget, blockIdx.x, wanted);
    if (threadIdx.x == 0) loss[blockIdx.x] = 0.0;
    for (std::int64_t j = threadIdx.x; j < logits.cols && gradient; j += blockDim.x) row[j] = T(0);
    return;
  }
  const T target_logit = row[wanted], shift = shift_of(row, logits.cols);  // waits for all to have read the target
  T sum = 0;
  for (std::int64_t j = threadIdx.x; j < logits.cols; j += blockDim.x) {
    const T e = std::exp(row[j] - shift);
    if (gradient) row[j] = e;
    sum += e;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0)
    loss[blockIdx.x] =
        std::log(static_cast<double>(sum)) + (static_cast<double>(shift) - static_cast<double>(target_logit));
  if (!gradient) return;
  const T factor = scale / sum;
  for (std::int64_t j = threadIdx.x; j < logits.cols; j += blockDim.x)
    row[j] = row[j] * factor - (j == wanted ? scale : T(0));
}

template <class T>
void softmax_forward(Stream& stream, Matrix<T> probs, T* lse, Matrix<const T> logits) {
  launch(stream, softmax_forward_kernel<T>, per_row(logits.rows, logits.cols), probs, lse, logits);
}
template <class T>
void softmax_backward(Stream& stream, Matrix<T> dlogits, Matrix<const T> dprobs, Matrix<const T> probs) {
  launch(stream, softmax_backward_kernel<T>, per_row(probs.rows, probs.cols), dlogits, dprobs, probs);
}
template <class T>
void top_k(Stream& stream, Matrix<std::int32_t> expert, Matrix<const T> scores) {
  launch(stream, top_k_kernel<T>, {ceil_div(scores.rows, kThreads / kWarp)}, expert, scores);
}
template <class T>
void cross_entropy(Stream& stream, double* loss, Matrix<T> logits, const std::int32_t* target, const T* grad_scale) {
  launch(stream, cross_entropy_kernel<T>, per_row(logits.rows, logits.cols), loss, logits, target,
         grad_scale != nullptr, grad_scale != nullptr ? *grad_scale : T(0), fault_word(stream));
}

}  // namespace

template <class T>
void add_softmax(Backend<T>& table) {
  table.softmax_forward = softmax_forward<T>;
  table.softmax_backward = softmax_backward<T>;
  table.top_k = top_k<T>;
  table.cross_entropy = cross_entropy<T>;
}

template void add_softmax(Backend<float>& table);
template void add_softmax(Backend<double>& table);

}  // namespace weft::kernels::cuda
