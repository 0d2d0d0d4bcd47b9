#include "parallel/moe/padded_gate.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "kernels/permute.h"
#include "kernels/slots.h"

namespace weft::parallel {
namespace {

template <class T>
class PaddedGate final : public Gate<T> {
 public:
  PaddedGate(std::unique_ptr<Gate<T>> gate, const GateOptions& options)
      : Gate<T>(options), gate_(std::move(gate)), slots_(gate_->max_rows_per_expert(options.group_rows)) {}

  [[nodiscard]] GateNeeds needs() const override {
    GateNeeds needs = gate_->needs();
    needs.form = RoutingForm::kSlotList;
    needs.count_exchange = false;
    needs.static_shapes = true;
    needs.early_destinations = false;
    return needs;
  }
  [[nodiscard]] TableShape table(std::int64_t rows) const override {
    return {rows / this->options().group_rows * slots_, this->moe().experts, slots_};
  }
  [[nodiscard]] std::int64_t max_rows_per_expert(std::int64_t rows) const override { return table(rows).rows; }
  [[nodiscard]] bool balances() const override { return gate_->balances(); }

  [[nodiscard]] std::vector<GateTensor> tensors(std::int64_t rows) const override {
    using enum GateElement;
    using enum GateTensorLife;
    std::vector<GateTensor> out = gate_->tensors(rows);
    for (GateTensor& tensor : out) tensor.id = own(tensor.id);
    const std::int64_t entries = table(rows).rows * this->moe().experts, choices = rows * this->moe().top_k;
    out.push_back({kGateKept, "router slots kept", entries, kI32});
    out.push_back({kGateSource, "router slots", entries, kI32});
    out.push_back({kGateWeight, "router slot weights", entries});
    out.push_back({kPlace, "router places", choices, kI32});
    out.push_back({kDWeight, "d router choice weights", choices, kReal, kBackward});
    return out;
  }

  [[nodiscard]] std::vector<GatePhase<T>> forward(std::int64_t rows, bool counted) const override {
    std::vector<GatePhase<T>> phases = gate_->forward(rows, counted);
    for (GatePhase<T>& phase : phases) wrap(phase);
    GatePhase<T> place;
    place.label = "slots";
    place.work = {scheduler::WorkKind::kMemory, moved_bytes(rows)};
    place.reads_hidden = false;
    place.reads = {kKept, kWeight};
    place.writes = {kGateKept, kGateSource, kGateWeight, kPlace};
    place.run = [this](GateCall<T>& call) {
      kernels::fill_slots<Wide<T>>(call.stream,
                                   {slot_table<std::int32_t>(call, kGateSource),
                                    slot_table<std::int32_t>(call, kGateKept), slot_table<Wide<T>>(call, kGateWeight)},
                                   choices<std::int32_t>(call, kPlace), choices<std::int32_t>(call, kKept),
                                   choices<Wide<T>>(call, kWeight), this->options().group_rows);
    };
    phases.push_back(std::move(place));
    return phases;
  }

  [[nodiscard]] std::vector<GatePhase<T>> backward(std::int64_t rows) const override {
    GatePhase<T> take;
    take.label = "slots";
    take.work = {scheduler::WorkKind::kMemory, moved_bytes(rows)};
    take.reads_hidden = false;
    take.reads = {kPlace};
    take.writes = {kDWeight};
    take.run = [this](GateCall<T>& call) {
      const TableShape shape = table(call.x.rows);
      kernels::gather_rows<Wide<T>>(call.stream, {call.tensor(kDWeight), call.x.rows * this->moe().top_k, 1},
                                    Matrix<const Wide<T>>(call.d_weight, shape.rows * shape.width, 1),
                                    call.template tensor<std::int32_t>(kPlace));
    };
    std::vector<GatePhase<T>> phases{std::move(take)};
    for (GatePhase<T>& phase : gate_->backward(rows)) {
      wrap(phase);
      phase.reads.push_back(kDWeight);
      phases.push_back(std::move(phase));
    }
    return phases;
  }

 private:
  /// Behind all ids of the gates: its kept choices and their weights, [T, K], where each choice's slot is, and the
  /// gradients of the weights.
  static constexpr int kKept = kMaxGateTensors - 4, kWeight = kKept + 1, kPlace = kKept + 2, kDWeight = kKept + 3;

  /// The id that a tensor of the gate has here.
  static int own(int id) { return id == kGateKept ? kKept : id == kGateWeight ? kWeight : id; }

  void wrap(GatePhase<T>& phase) const {
    std::transform(phase.reads.begin(), phase.reads.end(), phase.reads.begin(), own);
    std::transform(phase.writes.begin(), phase.writes.end(), phase.writes.begin(), own);
    phase.run = [run = std::move(phase.run)](GateCall<T>& call) {
      GateCall<T> inner = call;
      inner.tensors[kGateKept] = call.tensors[kKept];
      inner.tensors[kGateWeight] = call.tensors[kWeight];
      inner.d_weight = call.tensor(kDWeight);
      run(inner);
    };
  }
  [[nodiscard]] double moved_bytes(std::int64_t rows) const {
    const TableShape shape = table(rows);
    return double(shape.rows * shape.width + rows * this->moe().top_k) * (sizeof(std::int32_t) + sizeof(Wide<T>));
  }
  template <class U>
  [[nodiscard]] Matrix<U> slot_table(const GateCall<T>& call, int id) const {
    return {call.template tensor<U>(id), table(call.x.rows).rows, this->moe().experts};
  }
  template <class U>
  [[nodiscard]] Matrix<U> choices(const GateCall<T>& call, int id) const {
    return {call.template tensor<U>(id), call.x.rows, this->moe().top_k};
  }

  std::unique_ptr<const Gate<T>> gate_;
  std::int64_t slots_;  ///< C
};

}  // namespace

template <class T>
bool can_pad(const Gate<T>& gate, const GateOptions& options) {
  return gate.needs().form == RoutingForm::kTokenList && gate.max_rows_per_expert(options.group_rows) > 0 &&
         options.layout.sequence_ranks == 1;
}

template <class T>
std::unique_ptr<Gate<T>> padded(std::unique_ptr<Gate<T>> gate, const GateOptions& options) {
  WEFT_CHECK(can_pad(*gate, options), "gate ", options.model.moe.gate, " cannot pad to a capacity here");
  return std::make_unique<PaddedGate<T>>(std::move(gate), options);
}

#define WEFT_INSTANTIATE(T)                                  \
  template bool can_pad(const Gate<T>&, const GateOptions&); \
  template std::unique_ptr<Gate<T>> padded(std::unique_ptr<Gate<T>>, const GateOptions&);
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
