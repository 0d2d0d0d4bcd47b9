// parallel/moe/gates/softmax_top_k.cpp - logits = x Wg^T. Sources: arXiv:1701.06538; Mixtral, arXiv:2401.04088.
#include "parallel/moe/gate_registry.h"
#include "parallel/moe/gates/top_k.h"

namespace weft::parallel {
namespace {

template <class T>
class SoftmaxTopKGate final : public TopKGate<T> {
 public:
  using TopKGate<T>::TopKGate;

 protected:
  void logits(GateCall<T>& call, Matrix<Wide<T>> z) const override { linear_logits<T>(call, 0, z); }
  void logits_backward(GateCall<T>& call, Matrix<const Wide<T>> dz) const override {
    linear_logits_backward<T>(call, 0, dz);
  }
};

}  // namespace

GateEntry softmax_top_k_gate();
GateEntry softmax_top_k_gate() {
  GateEntry entry = gate_entry_of<SoftmaxTopKGate>("softmax_top_k",
                                                   "Softmax over all experts, then the top_k largest probabilities.");
  entry.parameters = [](const ModelConfig& m) { return std::vector{router_weight(m)}; };
  return entry;
}

}  // namespace weft::parallel
