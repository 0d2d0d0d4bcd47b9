// parallel/moe/gates/xmoe.cpp - cosine routing in a low dimension: logit = cos(Wp x, e_i) / tau, tau learned.
// Source: X-MoE, arXiv:2204.09179, section 3.2. tau = tau_0 * exp(theta) stays positive; theta is the parameter.
#include <algorithm>

#include "kernels/gemm.h"
#include "kernels/reduce.h"
#include "kernels/router.h"
#include "parallel/moe/gate_registry.h"
#include "parallel/moe/gates/top_k.h"

namespace weft::parallel {
namespace {

/// d: E / 2, as the paper takes it, and at least 2: on a line there are only two directions.
std::int64_t low_dimension(const ModelConfig& config) {
  const auto given = static_cast<std::int64_t>(gate_option(config.moe, "dimension"));
  return given > 0 ? given : std::max<std::int64_t>(2, config.moe.experts / 2);
}

enum Index : std::size_t { kProjection, kExperts, kTheta };

template <class T>
class XmoeGate final : public TopKGate<T> {
 public:
  using TopKGate<T>::TopKGate;

 protected:
  static constexpr int kHidden = TopKGate<T>::kOwn, kHiddenNorm = kHidden + 1, kUnit = kHidden + 2,
                       kUnitNorm = kHidden + 3, kCosine = kHidden + 4, kDCosine = kHidden + 5, kDHidden = kHidden + 6,
                       kDUnit = kHidden + 7, kTemperature = kHidden + 8;

  /// kHidden: [T, d] the normalised projections; kUnit: [E, d] the normalised expert vectors; kCosine: [T, E].
  [[nodiscard]] std::vector<GateTensor> own_tensors(std::int64_t rows) const override {
    using enum GateElement;
    using enum GateTensorLife;
    const std::int64_t experts = this->moe().experts, d = low_dimension(this->options().model);
    return {{kHidden, "router projection", rows * d},
            {kHiddenNorm, "router projection norm", rows},
            {kUnit, "router expert directions", experts * d},
            {kUnitNorm, "router expert norms", experts},
            {kCosine, "router cosine", rows * experts},
            {kDCosine, "d router cosine", rows * experts, kReal, kBackward},
            {kDHidden, "d router projection", rows * d, kReal, kBackward},
            {kDUnit, "d router expert directions", experts * d, kReal, kBackward},
            {kTemperature, "router temperature", 1}};
  }
  [[nodiscard]] double logits_flops(std::int64_t rows) const override {
    const ModelConfig& m = this->options().model;
    return 2.0 * static_cast<double>(rows * low_dimension(m) * (m.model_dim + m.moe.experts));
  }

  void logits(GateCall<T>& call, Matrix<Wide<T>> z) const override {
    const View v(call, low_dimension(this->options().model), z.cols);
    linear_logits<T>(call, kProjection, v.hidden);
    kernels::normalize_rows<Wide<T>>(call.stream, v.hidden, call.tensor(kHiddenNorm), v.hidden);
    kernels::widen<T>(call.stream, v.unit, Matrix<const T>(call.parameters[kExperts].weight, z.cols, v.unit.cols));
    kernels::normalize_rows<Wide<T>>(call.stream, v.unit, call.tensor(kUnitNorm), v.unit);
    kernels::widen<T>(call.stream, {call.tensor(kTemperature), 1, 1},
                      Matrix<const T>(call.parameters[kTheta].weight, 1, 1));
    kernels::linear_forward<Wide<T>>(call.stream, v.cosine, v.hidden, v.unit);
    divide_by_temperature(call, z.data, v.cosine.data, z.rows * z.cols);
  }

  void logits_backward(GateCall<T>& call, Matrix<const Wide<T>> dz) const override {
    const View v(call, low_dimension(this->options().model), dz.cols);
    const Matrix<Wide<T>> d_cosine(call.tensor(kDCosine), dz.rows, dz.cols),
        d_hidden(call.tensor(kDHidden), dz.rows, v.hidden.cols);
    const Matrix<Wide<T>> d_unit(call.tensor(kDUnit), dz.cols, v.unit.cols);
    const std::int64_t count = dz.rows * dz.cols;
    divide_by_temperature(call, d_cosine.data, dz.data, count);
    // z = cosine / tau and d tau / d theta = tau, so d theta = -sum dz * z = -sum dz / tau * cosine
    kernels::inner_product<Wide<T>>(call.stream, call.parameters[kTheta].grad, d_cosine.data, v.cosine.data, count,
                                    Wide<T>(-1), call.accumulate);
    kernels::linear_backward_input<Wide<T>>(call.stream, d_hidden, d_cosine, v.unit, kernels::Accumulate::kOverwrite);
    kernels::linear_backward_weight<Wide<T>>(call.stream, d_unit, nullptr, d_cosine, v.hidden,
                                             kernels::Accumulate::kOverwrite);
    kernels::normalize_rows_backward<Wide<T>>(call.stream, d_unit, d_unit, v.unit, call.tensor(kUnitNorm));
    Wide<T>* experts = call.parameters[kExperts].grad;
    if (call.accumulate == kernels::Accumulate::kAdd)
      kernels::axpy<Wide<T>>(call.stream, experts, d_unit.data, d_unit.rows * d_unit.cols, Wide<T>(1));
    else
      kernels::copy<Wide<T>>(call.stream, experts, d_unit.data, d_unit.rows * d_unit.cols);
    kernels::normalize_rows_backward<Wide<T>>(call.stream, d_hidden, d_hidden, v.hidden, call.tensor(kHiddenNorm));
    linear_logits_backward<T>(call, kProjection, d_hidden);
  }

 private:
  struct View {
    View(const GateCall<T>& call, std::int64_t d, std::int64_t experts)
        : hidden(call.tensor(kHidden), call.x.rows, d),
          unit(call.tensor(kUnit), experts, d),
          cosine(call.tensor(kCosine), call.x.rows, experts) {}
    Matrix<Wide<T>> hidden, unit, cosine;
  };
  /// z = x / tau: [n].
  void divide_by_temperature(const GateCall<T>& call, Wide<T>* z, const Wide<T>* x, std::int64_t n) const {
    kernels::router_temperature<Wide<T>>(call.stream, z, x, n, call.tensor(kTemperature),
                                         1.0 / gate_option(this->moe(), "temperature"));
  }
};

std::vector<ParameterSpec> parameters(const ModelConfig& config) {
  const std::int64_t d = low_dimension(config);
  return {{"moe.gate.projection.weight", d, config.model_dim},
          {"moe.gate.weight", config.moe.experts, d},
          {"moe.gate.temperature", 1, 1, true, false, Init::kZeros}};
}

}  // namespace

GateEntry xmoe_gate();
GateEntry xmoe_gate() {
  GateEntry entry = gate_entry_of<XmoeGate>(
      "xmoe",
      "Cosine of the token, projected to a low dimension, and a vector of each expert, over a learned temperature.");
  entry.parameters = parameters;
  entry.options = {{"dimension", 0, 0, 1e6, true, "the low dimension; 0: half the experts, at least 2"},
                   {"temperature", 0.3, 1e-3, 1e3, false, "at the start"}};
  return entry;
}

}  // namespace weft::parallel
