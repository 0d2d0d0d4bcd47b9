// parallel/step/norm.h - the normalisation in front of attention, feed-forward and head, for either family.
#pragma once

#include <string>

#include "kernels/norm.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {

/// RMSNorm (no bias) or LayerNorm (bias), by family. Values only: cheap to copy into closures.
template <class T>
struct Norm {
  Norm(const StepContext<T>& ctx, const std::string& name)
      : weight(ctx.parameter(name + ".weight")),
        bias(ctx.parameter(name + ".bias")),
        eps(ctx.model.norm_eps),
        rms(ctx.model.family == ModelFamily::kMixtral) {}

  /// Elements of the statistics of T rows: rstd, and for LayerNorm the mean behind it.
  [[nodiscard]] std::int64_t statistics_count(std::int64_t rows) const { return rms ? rows : 2 * rows; }

  void forward(Stream& stream, Matrix<T> y, Wide<T>* statistics, Matrix<const T> x) const {
    if (rms)
      kernels::rms_norm_forward<T>(stream, y, statistics, x, weight.weight, eps);
    else
      kernels::layer_norm_forward<T>(stream, y, statistics + x.rows, statistics, x, weight.weight, bias.weight, eps);
  }
  /// dx += ...; the weight's gradients by `accumulate`.
  void backward(Stream& stream, Matrix<T> dx, Matrix<const T> dy, Matrix<const T> x, const Wide<T>* statistics,
                kernels::Accumulate accumulate) const {
    using kernels::Accumulate;
    if (rms)
      kernels::rms_norm_backward<T>(stream, dx, weight.grad, dy, x, statistics, weight.weight, Accumulate::kAdd,
                                    accumulate);
    else
      kernels::layer_norm_backward<T>(stream, dx, weight.grad, bias.grad, dy, x, statistics + x.rows, statistics,
                                      weight.weight, Accumulate::kAdd, accumulate);
  }

  Parameter<T> weight, bias;
  double eps;
  bool rms;
};

/// Gradients of the first unit replace what the last step left; later ones are added.
[[nodiscard]] inline kernels::Accumulate accumulate_after_first(const Unit& unit) {
  return unit.index == 0 ? kernels::Accumulate::kOverwrite : kernels::Accumulate::kAdd;
}

}  // namespace weft::parallel
