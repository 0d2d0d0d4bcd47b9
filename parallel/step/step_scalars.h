// parallel/step/step_scalars.h - the numbers that change from step to step and that kernels read, on the step's device:
// no launch has them in its arguments, so a launch that was recorded once serves every step.
#pragma once

#include "core/memory.h"
#include "core/philox.h"
#include "core/stream.h"
#include "kernels/adamw.h"

namespace weft::parallel {

struct StepState;

class StepScalars {
 public:
  StepScalars() = default;
  StepScalars(int num_layers, Device device);

  /// Works them out for the step of `state`, and brings them to the device.
  void start(Stream& stream, const StepState& state);
  [[nodiscard]] const double* grad_scale() const;  ///< [1] of the loss: one over the step's valid tokens.
  [[nodiscard]] const kernels::AdamWFactors* adamw(bool decay) const;  ///< [1]
  /// [1] of the noise of a layer's gate in this step.
  [[nodiscard]] const PhiloxKey* noise_key(int layer) const;

 private:
  int num_layers_ = 0;
  Memory device_, host_;  ///< host_: pinned; none on the CPU.
};

}  // namespace weft::parallel
