// parallel/moe/gates/sigmoid.cpp - logits = x Wg^T; an expert's output is scaled by the sigmoid of its logit, each
// choice by itself. Sources: BASE, arXiv:2103.16716, eq. 2; StableMoE, arXiv:2204.08396; as FSMoE's sigmoid gate.
#include "parallel/moe/gate_registry.h"
#include "parallel/moe/gates/top_k.h"

namespace weft::parallel {
namespace {

template <class T>
class SigmoidGate final : public TopKGate<T> {
 public:
  using TopKGate<T>::TopKGate;

 protected:
  [[nodiscard]] kernels::RouterWeighting weighting() const override { return kernels::RouterWeighting::kSigmoid; }
  void logits(GateCall<T>& call, Matrix<Wide<T>> z) const override { linear_logits<T>(call, 0, z); }
  void logits_backward(GateCall<T>& call, Matrix<const Wide<T>> dz) const override {
    linear_logits_backward<T>(call, 0, dz);
  }
};

}  // namespace

GateEntry sigmoid_gate();
GateEntry sigmoid_gate() {
  GateEntry entry = gate_entry_of<SigmoidGate>(
      "sigmoid",
      "The top_k largest logits; an expert's output is scaled by the sigmoid of its logit: renormalize has no effect.");
  entry.parameters = [](const ModelConfig& m) { return std::vector{router_weight(m)}; };
  return entry;
}

}  // namespace weft::parallel
