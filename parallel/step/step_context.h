// parallel/step/step_context.h - what every part of the step's emission needs to know.
#pragma once

#include <string>
#include <vector>

#include "core/matrix.h"
#include "parallel/mesh.h"
#include "parallel/model/model_config.h"
#include "parallel/model/parameter_store.h"
#include "parallel/moe/hooks.h"
#include "parallel/step/emission.h"
#include "parallel/step/step_state.h"
#include "scheduler/plan.h"

namespace weft::parallel {

/// kTrain: forward, backward, update. kGradients: forward, backward and reduction, without an update. kEvaluate:
/// forward alone.
enum class StepMode : std::uint8_t { kTrain, kGradients, kEvaluate };

/// What a rank's step is made of. The emission is a pure function of it and of a Shape.
struct StepSpec {
  ModelConfig model;
  Mesh mesh;
  StepGeometry geometry;
  StepMode mode = StepMode::kTrain;
  bool sharded_optimizer = true;  ///< ZeRO-1.
  DispatcherKind dispatcher = DispatcherKind::kAllToAll;
  unsigned moe_hooks = 0;  ///< MoeHooks::mask() of the run's hooks: only those that are there become tasks.
  /// scheduler::Machine::host_apart: the host waits for the counts of routed rows before it issues what moves them.
  bool host_apart = false;
};

/// Where evaluation puts what a caller asked to see, on the host. Null pointers: not wanted.
template <class T>
struct Capture {
  Matrix<T> logits;                            ///< [micro-batches * B * S, V]
  std::vector<Matrix<std::int32_t>> expert;    ///< [layers] of [rows, K]; before drops.
  std::vector<Matrix<Wide<T>>> expert_weight;  ///< [layers] of [rows, K]
};

/// The live half: null in all its parts while a graph is only planned.
template <class T>
struct Runtime {
  ParameterStore<T>* store = nullptr;
  const MeshComms* comms = nullptr;
  StepState* state = nullptr;
  Capture<T>* capture = nullptr;       ///< kEvaluate only; may be null.
  const MoeHooks<T>* hooks = nullptr;  ///< May be null.
  Device device = {};                  ///< Of the step: set by BoundStep.
};

/// Which part of a bucket's gradient a task adds to: separate buffers, so that unrelated parts do not wait for each
/// other.
enum class GradientPart : std::uint8_t { kAttention, kFeedForward, kWhole };

template <class T>
class StepContext {
 public:
  StepContext(const StepSpec& spec, const scheduler::Shape& shape, const ParameterTable& table, Emission& out,
              const Runtime<T>* runtime);

  const StepSpec& spec;
  const ModelConfig& model;
  const Mesh& mesh;
  const scheduler::Shape& shape;
  const ParameterTable& table;
  Emission& out;
  const Runtime<T>* runtime;  ///< Null while only planning.

  [[nodiscard]] std::int64_t width() const { return model.model_dim; }
  [[nodiscard]] std::int64_t sequence_length() const { return spec.geometry.sequence_length; }
  /// Rows of one sequence on this rank.
  [[nodiscard]] std::int64_t rows_per_sequence() const { return spec.geometry.rows_per_sequence(); }
  [[nodiscard]] bool training() const { return spec.mode != StepMode::kEvaluate; }
  /// Null pointers while only planning, and for parameters that the model does not have.
  [[nodiscard]] Parameter<T> parameter(const std::string& name) const;

  [[nodiscard]] BufferId weights(int bucket) const { return weights_[static_cast<std::size_t>(bucket)]; }
  [[nodiscard]] BufferId gradients(int bucket, GradientPart part) const;
  /// All gradient buffers of a bucket: one, or two for dense layers.
  [[nodiscard]] BufferList all_gradients(int bucket) const;

  /// An arena buffer of `count` elements of U.
  template <class U = T>
  [[nodiscard]] BufferId buffer(const char* label, std::int64_t count, MemoryClass memory = MemoryClass::kActivations,
                                bool elastic = false) const {
    return out.buffer({label, memory, count * static_cast<std::int64_t>(sizeof(U)), elastic, false});
  }

 private:
  std::vector<BufferId> weights_, gradients_, feed_forward_gradients_;
};

/// The links that a collective of a group occupies: `size` ranks, every `stride`-th. Inside one node: intra. All on
/// different nodes: inter. Else both.
[[nodiscard]] scheduler::ResourceSet group_links(const Mesh& mesh, int size, int stride);

/// TaskSpec of a compute task of a unit.
[[nodiscard]] TaskSpec compute_task(Stage stage, Phase phase, const char* label, int layer, const Unit& unit,
                                    WorkKind kind, double amount);
/// TaskSpec of a collective over `resources`.
[[nodiscard]] TaskSpec comm_task(Stage stage, Phase phase, const char* label, int layer,
                                 scheduler::ResourceSet resources, WorkKind kind, double wire_bytes);

}  // namespace weft::parallel
