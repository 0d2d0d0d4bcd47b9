// parallel/step/update.h - emission of what follows the backward: gradient reduction, global norm, AdamW; and of the
// gather of updated weights that starts the next step. Source: ZeRO stage 1, arXiv:1910.02054: gradients
// reduce-scattered to their owners, states sharded, weights all-gathered.
#pragma once

#include "parallel/step/step_context.h"

namespace weft::parallel {

/// A bucket's whole weights on every replica, from their owners. In place.
template <class T>
void gather_weights(const ParameterStore<T>& store, int bucket, const MeshComms& comms, Stream& stream);

template <class T>
class Update {
 public:
  explicit Update(const StepContext<T>& ctx) : ctx_(ctx) {}

  void emit_weight_gather() const;
  void emit_gradient_reduction() const;
  /// Adds up the step's figures over all ranks (loss, router statistics, gradient norm) and sets the clip factor; then,
  /// in training, updates the weights. A step whose loss or norm is not finite changes no weight.
  void emit_norm_and_update() const;

 private:
  [[nodiscard]] scheduler::ResourceSet links(const Bucket& bucket) const;
  struct GradientPiece {  ///< Fractions [begin, end) of a bucket.
    int index;
    double begin, end;
  };
  void emit_reduce_scatter(int bucket, const GradientPiece& piece) const;
  void emit_all_reduce(int bucket, const GradientPiece& piece) const;
  void emit_norm(BufferId norm) const;
  void emit_adamw(int bucket, BufferId norm) const;

  const StepContext<T>& ctx_;
};

}  // namespace weft::parallel
