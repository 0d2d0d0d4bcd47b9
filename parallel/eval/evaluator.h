// parallel/eval/evaluator.h - a trained model looked at from outside: loss, logits, gradients, routing, and sampling
// from it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/data/batch.h"
#include "parallel/step/step_builder.h"
#include "parallel/train/checkpoint.h"

namespace weft::parallel {

/// One rank with all experts. BF16: weights are the checkpoint's, rounded, as in a run's own validation.
template <class T>
class Evaluator {
 public:
  /// Weights of `checkpoint`, whose tensors must be those of `model`, brought to `device`; what is asked for comes back
  /// to the host. `world`: a group of one over memory of the host that outlives this object.
  Evaluator(const ModelConfig& model, const Checkpoint& checkpoint, comm::Communicator& world, Device device = {});

  struct Outputs {
    double loss = 0.0;  ///< Mean cross-entropy, nats per valid target.
    std::int64_t num_targets = 0;
    std::vector<T> logits;                            ///< [B, S, V] when asked for.
    std::vector<std::vector<std::int32_t>> expert;    ///< [layers] of [B * S, K] choices; empty for dense layers.
    std::vector<std::vector<Wide<T>>> expert_weight;  ///< [layers] of [B * S, K]
    std::map<std::string, std::vector<Wide<T>>>
        gradients;  ///< dL/dw by global name when asked for, L with the balance losses.
  };
  struct Wanted {
    bool logits = false, routing = false, gradients = false;
  };
  [[nodiscard]] Outputs run(const Batch& batch, const Wanted& wanted);

  /// Logits of the token after `tokens` (at most the model's positions for learned ones): [V]. Capacity is off: what a
  /// token gets must not depend on what stands behind it.
  [[nodiscard]] std::vector<T> next_logits(std::span<const std::int32_t> tokens);

  [[nodiscard]] const ModelConfig& model() const noexcept { return model_; }

 private:
  struct Pass {  ///< One bound step with what it reads.
    StepState state;
    std::int64_t length = 0;  ///< S
    std::unique_ptr<BoundStep<T>> step;
  };
  [[nodiscard]] std::unique_ptr<Pass> make_pass(const ModelConfig& model, std::int64_t sequences, std::int64_t length,
                                                StepMode mode, Capture<T>* capture);

  ModelConfig model_;
  Device device_;
  Mesh mesh_;
  MeshComms comms_;
  ParameterTable table_;
  ParameterStore<T> store_;
  std::unique_ptr<Pass> generation_;  // of next_logits, kept while the length fits
  Capture<T> generation_capture_;
  std::vector<T> generation_logits_;
};

struct SampleOptions {
  double temperature = 1.0;  ///< 0: the most likely token.
  int top_k = 0;             ///< Sample among the k most likely; 0: all.
  std::uint64_t seed = 1;
};
/// A token drawn from softmax(logits / temperature), a pure function of (logits, options, counter).
template <class T>
[[nodiscard]] std::int32_t sample_token(std::span<const T> logits, const SampleOptions& options, std::uint64_t counter);

}  // namespace weft::parallel
