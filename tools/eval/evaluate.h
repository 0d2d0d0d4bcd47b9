// tools/eval/evaluate.h - a checkpoint on a token file: mean loss, and as files what else is asked for.
#pragma once

#include <cstdint>
#include <string>

#include "core/device.h"
#include "parallel/train/checkpoint.h"
#include "parallel/train/run_config.h"

namespace weft::tools {

struct EvalRequest {
  std::string tokens;                      ///< Token file (core/token_shard.h).
  std::int64_t sequences = 0;              ///< B: the first of the file; 0: all.
  std::string logits, gradients, routing;  ///< Files to write; empty: not wanted.
};

struct EvalReport {
  double loss = 0.0;  ///< Mean cross-entropy, nats per target.
  std::int64_t num_targets = 0, num_sequences = 0, sequence_length = 0;
  Device device;              ///< That computed.
  DType dtype = DType::kF32;  ///< Computed in.
};

/// Evaluates the model of `config` (train.sequence_length, train.micro_batch, train.dtype and parallel.device count)
/// with the weights of `checkpoint` on the first B sequences of the file, in file order, on one rank. A file shorter
/// than one sequence is one shorter sequence. Writes safetensors, in the dtype of the evaluation; of BF16, gradients
/// and routing weights are F32:
///   logits     "logits" [B, S, V]
///   gradients  dL/dw of every parameter, under its Hugging Face name (export's) where the family has one, else Weft's;
///   L is the
///              loss plus the balance losses that the config turns on
///   routing    "layers.N.expert" I32 [B, S, K], choices before drops, and "layers.N.weight" [B, S, K], of every MoE
///   layer
/// Passes of micro_batch sequences, so memory does not grow with B; but gradients come from one pass over all B
/// sequences. Throws Error{kInvalidArgument} (config, B, tokens outside the vocabulary, a checkpoint of another model),
/// Error{kUnavailable} (parallel.device), Error{kIo}.
[[nodiscard]] EvalReport evaluate(const parallel::RunConfig& config, const parallel::Checkpoint& checkpoint,
                                  const EvalRequest& request);

}  // namespace weft::tools
