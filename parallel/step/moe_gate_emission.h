// parallel/step/moe_gate_emission.h - emission of a gate's phases, and of the tensors between them.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "parallel/moe/dispatch_plan.h"
#include "parallel/moe/gate.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {

using GateBuffers = std::array<BufferId, kMaxGateTensors>;  ///< By tensor id; kNoBuffer: not there.

/// Gradients that a gate's backward starts from; d_mix for kSlotMatrix alone.
struct GateGradients {
  BufferId d_weight = kNoBuffer, d_mix = kNoBuffer;
};

/// Whether the step's MoE layers may send whole capacities (scheduler::Shape::padded).
[[nodiscard]] bool can_pad(const StepSpec& spec);

template <class T>
class GateEmission {
 public:
  GateEmission(const StepContext<T>& ctx, int layer);

  [[nodiscard]] const Gate<T>& gate() const { return *gate_; }
  [[nodiscard]] const GateNeeds& needs() const { return needs_; }
  [[nodiscard]] std::int64_t group_rows() const { return group_rows_; }
  /// Buffers of a forward pass: new ones, but for what the first pass left in `before` for good.
  [[nodiscard]] GateBuffers buffers(const Unit& unit, const GateBuffers& before, bool again) const;

  /// What all phases of one forward pass share. The last phase that writes the table counts its entries into `plan`
  /// (null: they are known, or will be).
  struct Forward {
    const Unit& unit;
    Phase phase;
    const GateBuffers& tensors;
    std::shared_ptr<DispatchPlan> plan;
    const std::shared_ptr<PooledBalance>& pooled;
  };
  /// Phases up to the table, of a gate with early destinations; of others none.
  void forward_early(const Forward& pass) const;
  /// The rest. x: [T, M].
  void forward(const Forward& pass, BufferId x) const;
  /// dx: [T, M].
  void backward(const Unit& unit, BufferId x, const GateBuffers& tensors, const GateGradients& gradients, BufferId dx,
                kernels::Accumulate dx_accumulate, const std::shared_ptr<PooledBalance>& pooled) const;

 private:
  struct Pass {  ///< What all phases of one pass share.
    Unit unit;
    Phase phase;
    BufferId x, dx = kNoBuffer;
    GateBuffers tensors;
    GateGradients gradients = {};
    kernels::Accumulate dx_accumulate = kernels::Accumulate::kOverwrite;
    std::shared_ptr<PooledBalance> pooled = nullptr;
    bool counted = false;
  };
  /// What follows a phase in its task, and the tensors that it looks at.
  struct After {
    std::vector<std::function<void(GateCall<T>&)>> run = {};
    std::vector<int> reads = {};
  };
  void emit(const Pass& pass, const GatePhase<T>& phase, bool first, const After& after) const;
  void emit_forward(const Forward& pass, BufferId x, bool early) const;
  [[nodiscard]] After count_entries(const Unit& unit, const std::shared_ptr<DispatchPlan>& plan) const;
  [[nodiscard]] After show_choices(const Unit& unit) const;

  const StepContext<T>& ctx_;
  int layer_, bucket_;
  bool first_moe_layer_;
  std::int64_t group_rows_;
  std::shared_ptr<const Gate<T>> gate_;
  GateNeeds needs_;
  std::vector<Parameter<T>> parameters_;
  BufferId world_state_ = kNoBuffer;  ///< What phases of all ranks add up from unit to unit: keeps these in order.
};

}  // namespace weft::parallel
