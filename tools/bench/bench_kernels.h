// tools/bench/bench_kernels.h - weft bench kernels
#pragma once

#include <cstdint>
#include <string>

#include "parallel/train/run_config.h"

namespace weft::tools {

struct BenchKernelsOptions {
  parallel::DeviceChoice device = parallel::DeviceChoice::kAuto;
  std::string dtype = "F32";  ///< F32, F64 or BF16 (rows; sums and gradients stay F32).
  std::int64_t tokens = 0;    ///< T; 0: 512 on the CPU, 8192 on a GPU.
  std::int64_t model_dim = 1024, expert_hidden_dim = 2048, experts = 8, top_k = 2;
  std::int64_t head_dim = 64, sequence_length = 512, vocab_size = 8192;
  int repeats = 5;  ///< The median is shown.
};

/// Every kernel of a step on one device: its time against its two floors, a plain copy that reads and writes as many
/// bytes, and its FLOPs at the rate of a large matrix product, both measured there. On the CPU a kernel that reads what
/// it overwrites can be below the first: a copy reads that, too, and it is not counted. Returns the
/// exit status. Throws Error{kUnavailable} for a GPU that is not there.
int bench_kernels(const BenchKernelsOptions& options, bool as_json);

}  // namespace weft::tools
