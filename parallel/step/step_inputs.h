// parallel/step/step_inputs.h - the micro-batches of a step, brought to the device that it runs on.
#pragma once

#include <vector>

#include "core/memory.h"
#include "core/stream.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {

class StepInputs {
 public:
  /// Takes its memory at once; on the CPU none.
  StepInputs(const StepSpec& spec, Device device);

  /// `batches`, which lie on the host, as the step's tasks may read them once `stream` is done, until the next call. On
  /// the CPU they are the same.
  [[nodiscard]] std::vector<MicroBatch> upload(const std::vector<MicroBatch>& batches, Stream& stream);

 private:
  int num_micro_batches_ = 0;
  std::int64_t rows_ = 0;       ///< T of a micro-batch.
  std::int64_t core_rows_ = 0;  ///< Of core_positions and core_segments.
  std::int64_t places_ = 0;     ///< Of places.
  std::int64_t sequences_ = 0;  ///< B
  Memory host_, device_;        ///< host_: pinned.
};

}  // namespace weft::parallel
