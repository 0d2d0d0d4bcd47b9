// parallel/moe/expert.h - Expert: the feed-forward networks of this rank's experts, or its slices of them, over rows
// sorted by expert. An interface; implementations by model family.
// Letters: R rows, L local experts, M model width, H hidden width of an expert on this rank, W width of the
// pre-activation (2H when gated).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/grouped_gemm.h"
#include "parallel/model/model_config.h"
#include "parallel/model/parameter_store.h"

namespace weft::parallel {

/// Where the parameters of the first local expert lie, and how far it is to the next one's.
template <class T>
struct ExpertParameters {
  Parameter<T> pre, pre_bias, down, down_bias;  ///< Biases may be null.
  std::int64_t stride = 0;                      ///< Elements.
};

/// Rows [offsets[l], offsets[l + 1]) are those of local expert l; [L + 1].
using ExpertOffsets = std::span<const std::int64_t>;

template <class T>
class Expert {
 public:
  virtual ~Expert() = default;
  [[nodiscard]] virtual std::int64_t hidden_width() const = 0;  ///< H
  [[nodiscard]] virtual std::int64_t pre_width() const = 0;     ///< W
  /// pre: [R, W] and hidden: [R, H] are kept for the backward; y: [R, M] from x: [R, M].
  virtual void forward(Stream& stream, ExpertOffsets offsets, Matrix<T> y, Matrix<T> pre, Matrix<T> hidden,
                       Matrix<const T> x) const = 0;
  /// hidden once more, from pre.
  virtual void activate(Stream& stream, Matrix<T> hidden, Matrix<const T> pre) const = 0;
  /// dx: [R, M] from dy; pre becomes its own gradient; d_hidden: [R, H] is scratch.
  virtual void backward_input(Stream& stream, ExpertOffsets offsets, Matrix<T> dx, Matrix<T> pre, Matrix<T> d_hidden,
                              Matrix<const T> dy) const = 0;
  struct WeightInputs {
    Matrix<const T> dy, d_pre, x, hidden;
  };
  /// Gradients of all parameters of the local experts.
  virtual void backward_weight(Stream& stream, ExpertOffsets offsets, const WeightInputs& in,
                               kernels::Accumulate accumulate) const = 0;
};

/// Of `model`'s family. hidden_width: H on this rank.
template <class T>
[[nodiscard]] std::unique_ptr<Expert<T>> make_expert(const ModelConfig& model, std::int64_t hidden_width,
                                                     const ExpertParameters<T>& parameters);

}  // namespace weft::parallel
