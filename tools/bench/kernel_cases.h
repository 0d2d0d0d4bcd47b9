// tools/bench/kernel_cases.h - the kernels of a step on made-up data, each with what it has to move and compute.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/stream.h"
#include "tools/bench/bench_kernels.h"

namespace weft::tools {

/// Rows are permuted by steps of it, so it may not divide their number.
inline constexpr std::int64_t kRowStep = 7919;

/// `bytes`: every element read or written once, by what the kernel's contract says; `flops`: multiplications and
/// additions of products (0 for kernels that only move or map elements).
struct KernelCase {
  std::string name;
  double bytes = 0.0, flops = 0.0;
  std::function<void(Stream&)> run;
};

/// T: float or double. The arrays live as long as the cases do.
template <class T>
[[nodiscard]] std::vector<KernelCase> kernel_cases(Device device, const BenchKernelsOptions& options);

}  // namespace weft::tools
