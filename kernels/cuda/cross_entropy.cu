// kernels/cuda/cross_entropy.cu - cross-entropy over rows of logits, and its gradient in their place.
#include "kernels/cuda/backend.h"
#include "kernels/cuda/fault.cuh"
#include "kernels/cuda/row_shift.cuh"

namespace weft::kernels::cuda {
namespace {

/// A block per row: its loss; with `grad_scale`, the row becomes its gradient times that.
template <class T>
__global__ void cross_entropy_kernel(double* loss, Matrix<T> logits, const std::int32_t* target,
                                     const double* grad_scale, std::uint64_t* fault) {
  const bool gradient = grad_scale != nullptr;
  T* row = logits.row(blockIdx.x);
  const std::int32_t wanted = target[blockIdx.x];
  const bool counts = wanted >= 0 && wanted < logits.cols;
  if (!counts) {  // the whole block agrees
    if (wanted != kIgnoreTarget && threadIdx.x == 0) report(fault, FaultSite::kTarget, blockIdx.x, wanted);
    if (threadIdx.x == 0) loss[blockIdx.x] = 0.0;
    for (std::int64_t j = threadIdx.x; j < logits.cols && gradient; j += blockDim.x) row[j] = T(0);
    return;
  }
  const Wide<T> target_logit = row[wanted],
                shift = shift_of(row, logits.cols);  // waits for all to have read the target
  Wide<T> sum = 0;
  for (std::int64_t j = threadIdx.x; j < logits.cols; j += blockDim.x) {
    const Wide<T> e = std::exp(row[j] - shift);
    if (gradient) row[j] = e;
    sum += e;
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0)
    loss[blockIdx.x] =
        std::log(static_cast<double>(sum)) + (static_cast<double>(shift) - static_cast<double>(target_logit));
  if (!gradient) return;
  const Wide<T> scale = static_cast<Wide<T>>(*grad_scale), factor = scale / sum;
  for (std::int64_t j = threadIdx.x; j < logits.cols; j += blockDim.x)
    row[j] = row[j] * factor - (j == wanted ? scale : Wide<T>(0));
}

template <class T>
void cross_entropy(Stream& stream, double* loss, Matrix<T> logits, const std::int32_t* target,
                   const double* grad_scale) {
  launch(stream, cross_entropy_kernel<T>, per_row(logits.rows, logits.cols), loss, logits, target, grad_scale,
         fault_word(stream));
}

}  // namespace

template <class T>
void add_cross_entropy(RowKernels<T>& table) {
  table.cross_entropy = cross_entropy<T>;
}

template void add_cross_entropy(RowKernels<float>& table);
template void add_cross_entropy(RowKernels<double>& table);
template void add_cross_entropy(RowKernels<BF16>& table);

}  // namespace weft::kernels::cuda
