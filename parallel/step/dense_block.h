// parallel/step/dense_block.h - emission of x + FeedForward(Norm(x)) for dense layers.
#pragma once

#include "parallel/step/norm.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {

struct DenseSaved {
  BufferId x = kNoBuffer;       ///< [T, M]
  BufferId normed = kNoBuffer;  ///< [T, M]; kNoBuffer: computed again.
  BufferId statistics = kNoBuffer;
  BufferId pre = kNoBuffer;     ///< [T, 2H] gate and up, or [T, H] up.
  BufferId hidden = kNoBuffer;  ///< [T, H]; kNoBuffer: computed again.
};

template <class T>
class DenseBlock {
 public:
  DenseBlock(const StepContext<T>& ctx, int layer);
  BufferId forward(const Unit& unit, Phase phase, BufferId x, DenseSaved& saved) const;
  void backward(const Unit& unit, const DenseSaved& saved, BufferId d) const;

 private:
  const StepContext<T>& ctx_;
  int layer_;
  int bucket_;
  std::int64_t hidden_width_, pre_width_;
  Norm<T> norm_;
  Parameter<T> pre_, pre_bias_, down_, down_bias_;
};

}  // namespace weft::parallel
