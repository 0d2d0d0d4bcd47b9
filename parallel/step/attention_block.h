// parallel/step/attention_block.h - emission of x + Attention(Norm(x)), forward and backward.
#pragma once

#include "parallel/step/attention_core.h"
#include "parallel/step/norm.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {

/// Buffers that one unit's pass through a block leaves for its backward. kNoBuffer: to be computed again.
struct AttentionSaved {
  BufferId x = kNoBuffer;           ///< [T, M] the block's input.
  BufferId normed = kNoBuffer;      ///< [T, M]
  BufferId statistics = kNoBuffer;  ///< The norm's.
  CoreSaved core;
  BufferId context = kNoBuffer;  ///< [T, Hq d] attention's output.
};

template <class T>
class AttentionBlock {
 public:
  AttentionBlock(const StepContext<T>& ctx, int layer);

  /// Emits the forward pass; returns the output, [T, M].
  BufferId forward(const Unit& unit, Phase phase, BufferId x, AttentionSaved& saved) const;
  /// d: [T, M], gradient of the output in, of the input out, in place.
  void backward(const Unit& unit, const AttentionSaved& saved, BufferId d) const;

 private:
  void emit_norm(const Unit& unit, Phase phase, BufferId x, BufferId normed, BufferId statistics) const;
  [[nodiscard]] BufferId emit_qkv(const Unit& unit, Phase phase, BufferId normed) const;
  void emit_qkv_backward(const Unit& unit, const AttentionSaved& saved, BufferId d_qkv, BufferId d_normed) const;

  const StepContext<T>& ctx_;
  int layer_;
  int bucket_;
  std::int64_t qkv_width_, q_width_, kv_width_;
  AttentionCore<T> core_;
  Norm<T> norm_;
  Parameter<T> qkv_, qkv_bias_, o_, o_bias_;
};

}  // namespace weft::parallel
