// parallel/step/ends.h - emission of the two ends of the model: embedding, and final norm with loss.
#pragma once

#include "parallel/step/norm.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {

template <class T>
class Embedding {
 public:
  explicit Embedding(const StepContext<T>& ctx);
  [[nodiscard]] BufferId forward(const Unit& unit) const;  ///< [T, M]
  void backward(const Unit& unit, BufferId d) const;

 private:
  const StepContext<T>& ctx_;
  Parameter<T> tokens_, positions_;
};

/// Final norm, output projection and cross-entropy, forward and backward in one pass over blocks of rows: the full
/// logits never exist. The loss divisor (valid tokens of the step) is known before, so nothing is left to rescale.
template <class T>
class LossHead {
 public:
  explicit LossHead(const StepContext<T>& ctx);
  /// x: [T, M]. Returns dL/dx, [T, M]; kNoBuffer in evaluation.
  BufferId emit(const Unit& unit, BufferId x) const;

  /// Rows of one block of logits: about 4M elements of logits at most.
  [[nodiscard]] static std::int64_t block_rows(std::int64_t rows, std::int64_t vocab_size);

 private:
  struct Block;
  const StepContext<T>& ctx_;
  Norm<T> norm_;
  Parameter<T> head_;
};

}  // namespace weft::parallel
