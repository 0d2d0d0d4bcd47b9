// parallel/moe/gates/gshard.cpp - noisy top-k: logits = x Wg^T + N(0, 1) * softplus(x Wnoise^T) in training, x Wg^T in
// evaluation. Sources: arXiv:1701.06538, eq. 4; GShard as in FSMoE, arXiv:2501.10714, section 2.1.
// The noise of an entry is a function of (seed, step, layer, sample, position, expert): no layout changes it.
#include "kernels/reduce.h"
#include "kernels/router.h"
#include "parallel/moe/gate_registry.h"
#include "parallel/moe/gates/top_k.h"

namespace weft::parallel {
namespace {

template <class T>
class GShardGate final : public TopKGate<T> {
 public:
  using TopKGate<T>::TopKGate;

 protected:
  static constexpr int kNoise = TopKGate<T>::kOwn, kRaw = kNoise + 1, kDRaw = kNoise + 2;

  /// kNoise: [T, E], the noise times the slope of softplus: what the gradient of x Wnoise^T is scaled by.
  [[nodiscard]] std::vector<GateTensor> own_tensors(std::int64_t rows) const override {
    const std::int64_t count = rows * this->moe().experts;
    return {{kNoise, "router noise", count},
            {kRaw, "router noise scale", count, GateElement::kReal, GateTensorLife::kForward},
            {kDRaw, "d router noise", count, GateElement::kReal, GateTensorLife::kBackward}};
  }
  [[nodiscard]] double logits_flops(std::int64_t rows) const override { return 2.0 * TopKGate<T>::logits_flops(rows); }
  void logits(GateCall<T>& call, Matrix<Wide<T>> z) const override {
    const Matrix<Wide<T>> noise(call.tensor(kNoise), z.rows, z.cols), raw(call.tensor(kRaw), z.rows, z.cols);
    linear_logits<T>(call, 0, z);
    if (!call.state->gate_noise) return kernels::fill<Wide<T>>(call.stream, noise.data, z.rows * z.cols, Wide<T>(0));
    linear_logits<T>(call, 1, raw);
    kernels::router_draw<Wide<T>>(call.stream, noise, call.state->scalars.noise_key(call.layer), call.ids.noise_rows());
    kernels::router_noise<Wide<T>>(call.stream, z, noise, raw);
  }
  void logits_backward(GateCall<T>& call, Matrix<const Wide<T>> dz) const override {
    const Matrix<Wide<T>> d_raw(call.tensor(kDRaw), dz.rows, dz.cols);
    const Wide<T>* slope = call.tensor(kNoise);
    kernels::multiply<Wide<T>>(call.stream, d_raw.data, dz.data, slope, dz.rows * dz.cols);
    linear_logits_backward<T>(call, 0, dz);
    call.dx_accumulate = kernels::Accumulate::kAdd;
    linear_logits_backward<T>(call, 1, d_raw);
  }
};

std::vector<ParameterSpec> parameters(const ModelConfig& config) {
  ParameterSpec noise = router_weight(config);
  noise.name = "moe.gate.noise.weight";
  return {router_weight(config), noise};
}

}  // namespace

GateEntry gshard_gate();
GateEntry gshard_gate() {
  GateEntry entry = gate_entry_of<GShardGate>(
      "gshard", "The same with learned noise on the logits in training: x Wg + N(0, 1) * softplus(x Wnoise).");
  entry.parameters = parameters;
  return entry;
}

}  // namespace weft::parallel
