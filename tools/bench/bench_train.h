// tools/bench/bench_train.h - weft bench train
#pragma once

namespace weft::tools {

struct BenchTrainOptions {
  int layers = 4, model_dim = 512, expert_hidden_dim = 1024, experts = 8, top_k = 2;
  int vocab_size = 257, batch = 8, sequence_length = 256;
  int steps = 5;  ///< Measured steps; one more before them warms up.
};

/// Model FLOP/s of a training step over the SGEMM rate of the same machine, one rank, one thread, F32, both measured in
/// turn. Returns the exit status.
int bench_train(const BenchTrainOptions& options, bool as_json);

}  // namespace weft::tools
