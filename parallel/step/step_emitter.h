// parallel/step/step_emitter.h - a real model's step as an Emitter: what the policies plan.
#pragma once

#include <string>
#include <vector>

#include "parallel/step/step_builder.h"
#include "scheduler/emitter.h"

namespace weft::parallel {

class StepEmitter final : public scheduler::Emitter {
 public:
  /// `recompute`, `padded` and the mesh are given; the space cuts sub-batches between routing groups and chunks up
  /// to 8.
  StepEmitter(StepSpec spec, scheduler::Recompute recompute, DType dtype, bool padded = false);

  [[nodiscard]] const scheduler::ShapeSpace& space() const override { return space_; }
  [[nodiscard]] scheduler::Graph emit(const scheduler::Shape& shape) const override {
    return emit_step(spec_, shape, dtype_);
  }
  [[nodiscard]] double gradient_bytes(int layer) const override;

 private:
  StepSpec spec_;
  DType dtype_;
  scheduler::ShapeSpace space_;
  std::vector<double> gradient_bytes_;  // [layers]
};

/// What a plan of this step is for: model, layout, batch and version, a line each. Plans with other lines do not fit.
[[nodiscard]] std::vector<std::string> describe(const StepSpec& spec, DType dtype);

}  // namespace weft::parallel
