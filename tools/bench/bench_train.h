// tools/bench/bench_train.h - weft bench train
#pragma once

#include <string>

#include "parallel/train/run_config.h"

namespace weft::tools {

struct BenchTrainOptions {
  parallel::DeviceChoice device = parallel::DeviceChoice::kAuto;
  std::string dtype = "F32";  ///< F32, F64 or BF16 (train.dtype).
  int layers = 4, model_dim = 512, expert_hidden_dim = 1024, experts = 8, top_k = 2;
  int head_dim = 64, kv_heads = 0;  ///< 0: as many as heads.
  double capacity_factor = 0.0;     ///< 0: dropless.
  bool pad_capacity = false;        ///< Rows travel padded to capacities, as schedule.pad_capacity: ALWAYS.
  int vocab_size = 257, batch = 8, sequence_length = 256;
  int steps = 5;      ///< Measured steps; one more before them warms up.
  int gemm_side = 0;  ///< Of the matrices of the product it is held against; 0: 1536 on the CPU, 4096 on a GPU.
};

/// Model FLOP/s of a training step over the rate of a product of two large matrices of the same type on the same
/// device, both measured in turn; and the share of the step in which its streams had no task (scheduler::stream_use).
/// One rank; on the CPU one thread. Returns the exit status. Throws Error{kInvalidArgument} with what does not go
/// together, Error{kUnavailable} for a GPU that is not there, Error{kOutOfMemory}.
int bench_train(const BenchTrainOptions& options, bool as_json);

}  // namespace weft::tools
