// parallel/train/validator.h - the loss on a fixed set of held-out sequences.
#pragma once

#include <memory>

#include "parallel/data/batch.h"
#include "parallel/step/step_builder.h"
#include "parallel/train/run_config.h"

namespace weft::parallel {

/// The validation set is the first train.validate_sequences sequences of data.val, in file order, whatever the layout:
/// ranks share them, and a rank with none left joins the collectives with rows that count for nothing. Router noise is
/// off.
template <class T>
class Validator {
 public:
  /// spec: validation_spec(). shape: how the layers are cut, as in training.
  Validator(const RunConfig& config, const MeshComms& comms, StepSpec spec, const scheduler::Shape& shape,
            Device device);

  /// Mean cross-entropy in nats per target. Collective. Brings every replica's weights up to date first.
  [[nodiscard]] double run(ParameterStore<T>& store);

 private:
  RunConfig config_;
  const MeshComms& comms_;
  StepSpec spec_;
  scheduler::Shape shape_;
  TokenDataset data_;
  Device device_;
  ValidationLayout layout_;
  StepState state_;
  std::unique_ptr<BoundStep<T>> step_;  // made at the first run
};

}  // namespace weft::parallel
