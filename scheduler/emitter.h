// scheduler/emitter.h - from Shape to Graph: what a policy may vary, and what it gets for it.
#pragma once

#include <cstdint>

#include "scheduler/cost_model.h"
#include "scheduler/graph.h"
#include "scheduler/plan.h"

namespace weft::scheduler {

/// The Shapes that an emitter can emit. The search and the lower bound are over exactly these.
struct ShapeSpace {
  Shape base;  ///< What is given (recompute, imbalance limit, micro-batches in flight) and the coarsest cuts.
  int num_micro_batches = 1;
  int max_sub_batches = 1;     ///< Pieces of a micro-batch.
  int max_forward_chunks = 1;  ///< r of a layer, forward.
  int max_backward_chunks = 1;
  int max_gradient_slices = 1;  ///< Pieces of a layer's gradient reduction; 1 where there is none.
  /// Smallest sub-batch over its micro-batch, and smallest chunk over the mean chunk: 1 / max_sub_batches and 1 where
  /// cuts are equal. For the lower bound.
  double min_sub_batch_share = 1.0;
  double min_chunk_share = 1.0;
  bool has_weight_grads = true;  ///< Expert dW exists and may be deferred.
};

/// A pure function from Shape to Graph: equal Shapes, equal graphs. A real model's step, a layer of the published grid
/// and a table of measured stages are emitters.
class Emitter {
 public:
  virtual ~Emitter() = default;
  [[nodiscard]] virtual const ShapeSpace& space() const = 0;
  [[nodiscard]] virtual Graph emit(const Shape& shape) const = 0;
  /// Bytes of one layer's gradient reduction: what fixed-size pieces are cut from.
  [[nodiscard]] virtual double gradient_bytes(int layer) const = 0;
  /// A time that no plan of this Shape, cut of dW aside, can beat; 0 where nothing better than the bound over the whole
  /// space is known. Lets a search leave out what cannot win.
  [[nodiscard]] virtual double shape_bound_us(const Shape& /*shape*/, const CostModel& /*cost*/) const { return 0.0; }
};

}  // namespace weft::scheduler
