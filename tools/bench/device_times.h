// tools/bench/device_times.h - how long a device takes for work that is launched over and over.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/stream.h"

namespace weft::tools {

/// Microseconds of one run, measured `repeats` times: each over a batch of runs that takes two milliseconds or more, so
/// that on a GPU one launch hides behind the run before it, as in a step.
[[nodiscard]] std::vector<double> times_us(Stream& stream, int repeats, const std::function<void(Stream&)>& run);

/// FLOPs a microsecond of a product of two square matrices of T, measured `repeats` times. T: float, double, BF16.
template <class T>
[[nodiscard]] std::vector<double> gemm_flops_per_us(Stream& stream, std::int64_t side, int repeats);

}  // namespace weft::tools
