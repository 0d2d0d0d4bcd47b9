// kernels/cuda/scan.h - sums before each element of an array.
#pragma once

#include <cstdint>

#include "core/stream.h"

namespace weft::kernels::cuda {

/// values[i] = values[0] + ... + values[i - 1], in place. [count], on the stream's device; the sums fit an i32.
void exclusive_sum(Stream& stream, std::int32_t* values, std::int64_t count);

}  // namespace weft::kernels::cuda
