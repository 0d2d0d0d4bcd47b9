// kernels/cuda/row_shift.cuh - what softmax and cross-entropy subtract from a row before exp.
#pragma once

#include "core/bf16.h"
#include "kernels/cuda/launch.cuh"

namespace weft::kernels::cuda {

/// The largest of a row, or 0 where that is -infinity. All threads of the block must call.
template <class T>
__device__ Wide<T> shift_of(const T* row, std::int64_t cols) {
  Wide<T> max = -std::numeric_limits<Wide<T>>::infinity();
  for (std::int64_t j = threadIdx.x; j < cols; j += blockDim.x) max = row[j] > max ? Wide<T>(row[j]) : max;
  return finite_or_zero(block_max(max));
}

}  // namespace weft::kernels::cuda
