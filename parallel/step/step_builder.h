// parallel/step/step_builder.h - the Emitter of DESIGN: a pure function from (model, mesh, geometry, Shape) to the
// graph of a whole optimizer step, and its closures for the plan that runs.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "parallel/step/recorded_step.h"
#include "parallel/step/step_context.h"
#include "parallel/step/step_inputs.h"
#include "scheduler/stream_executor.h"

namespace weft::parallel {

/// The graph alone: no device, no communicator, no memory. dtype: kF32, kF64 or kBF16.
[[nodiscard]] scheduler::Graph emit_step(const StepSpec& spec, const scheduler::Shape& shape, DType dtype);

/// One Shape for all layers, from plain figures.
struct ShapeOptions {
  int forward_chunks = 1;
  int backward_chunks = 1;
  int weight_grad_pieces = 0;
  scheduler::Recompute recompute = scheduler::Recompute::kNone;
  int sub_batches = 1;
  int gradient_slices = 1;  ///< Equal pieces of each gradient reduction.
  int micro_batches_in_flight = 0;
  bool padded = false;
};
[[nodiscard]] scheduler::Shape uniform_shape(int layers, const ShapeOptions& options);

/// A step that can run on a device: graph, closures, arena. Runs as often as wanted; what varies is in the StepState of
/// `runtime`, whose parts outlive this object; this one makes its statistics. Nothing waits for a GPU in mid-step but
/// for the counts of routed rows (Stage::kHostWait).
template <class T>
class BoundStep {
 public:
  /// Checks the plan against the graph first: throws kInvalidArgument with every problem. On a GPU, spec.host_apart
  /// must hold, and the store's memory and the communicators must be of that device.
  BoundStep(const StepSpec& spec, const scheduler::Plan& plan, const Runtime<T>& runtime, Device device = {},
            scheduler::ExecutorKind executor = scheduler::ExecutorKind::kInline);
  BoundStep(const BoundStep&) = delete;
  BoundStep& operator=(const BoundStep&) = delete;

  scheduler::Timeline run();
  /// Why run() launches a step task by task although `executor` was kRecorded; "" when it records.
  [[nodiscard]] std::string why_not_recorded() const;
  /// How often a step was recorded so far.
  [[nodiscard]] int num_recordings() const noexcept { return recorded_ ? recorded_->num_recordings() : 0; }
  /// One thread, in issue order, whatever the executor, with a call around each task.
  scheduler::Timeline run_inline(const scheduler::TaskHooks& hooks);
  [[nodiscard]] const scheduler::Graph& graph() const noexcept { return graph_; }
  [[nodiscard]] const scheduler::Plan& plan() const noexcept { return plan_; }
  [[nodiscard]] const scheduler::SlotMap& slots() const noexcept { return slots_; }
  [[nodiscard]] const scheduler::Arena& arena() const noexcept { return *arena_; }
  [[nodiscard]] int num_units() const noexcept { return num_units_; }

 private:
  void start_step();
  void finish_step();

  StepSpec spec_;  // closures refer to it
  scheduler::Plan plan_;
  Runtime<T> runtime_;
  int num_units_;
  StepInputs inputs_;
  std::unique_ptr<Stream> stream_;  ///< For what stands around the tasks, and for tasks run inline.
  scheduler::Graph graph_;
  std::vector<scheduler::TaskBody> bodies_;
  scheduler::SlotMap slots_;
  std::unique_ptr<scheduler::Arena> arena_;
  std::unique_ptr<StreamClock> clock_;                  ///< Of tasks run inline; made by the first run.
  std::unique_ptr<scheduler::StreamExecutor> streams_;  ///< Null: one thread, in issue order.
  std::unique_ptr<RecordedStep> recorded_;              ///< Null: streams_ launches task by task.
};

}  // namespace weft::parallel
