// A gate of our own, which nothing but this file and its registration knows: what every gate is put through, this one
// is too. Experts by a hash of the token (Hash Layers, arXiv:2106.04426, section 3.1), weights by a learned sigmoid, so
// that the rows' destinations are known before attention and their weights behind it.
#include <algorithm>
#include <cmath>

#include "kernels/router.h"
#include "parallel/moe/balance.h"
#include "parallel/moe/gate_registry.h"
#include "parallel/moe/gates/top_k.h"
#include "parallel/step/step_emitter.h"
#include "scheduler/order.h"
#include "scheduler/search.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/gates.h"
#include "tests/support/step_harness.h"
#include "tools/config/schedule_files.h"

using namespace weft;
using namespace weft::parallel;

namespace {

/// Says that it knows destinations early, or does not say so: the routing is the same.
template <class T, bool Early>
class HashGate : public Gate<T> {
 public:
  using Gate<T>::Gate;
  [[nodiscard]] GateNeeds needs() const override {
    GateNeeds needs;
    needs.early_destinations = Early;
    return needs;
  }
  [[nodiscard]] TableShape table(std::int64_t rows) const override {
    return {rows, this->moe().top_k, this->options().group_rows};
  }
  [[nodiscard]] std::vector<GateTensor> tensors(std::int64_t rows) const override {
    using enum GateElement;
    using enum GateTensorLife;
    const std::int64_t choices = rows * this->moe().top_k, scores = rows * this->moe().experts;
    return {{kGateKept, "router kept", choices, kI32},
            {kGateChoice, "router choice", choices, kI32},
            {kGateWeight, "router weight", choices},
            {kLogits, "router logits", scores, kReal, kForward},
            {kDLogits, "d router logits", scores, kReal, kBackward}};
  }
  [[nodiscard]] std::vector<GatePhase<T>> forward(std::int64_t, bool counted) const override {
    GatePhase<T> choose, weigh;
    choose.label = "hash";
    choose.reads_hidden = false;
    choose.writes = {kGateKept, kGateChoice};
    choose.run = [this, counted](GateCall<T>& call) { hash(call, counted); };
    weigh.label = "weigh";
    weigh.reads = {kGateChoice};
    weigh.writes = {kLogits, kGateWeight};
    weigh.run = [this](GateCall<T>& call) {
      const Matrix<Wide<T>> z(call.tensor(kLogits), call.x.rows, this->moe().experts);
      linear_logits<T>(call, 0, z);
      kernels::router_sigmoid<Wide<T>>(call.stream, {call.tensor(kGateWeight), z.rows, this->moe().top_k}, z,
                                       choices(call));
    };
    return {choose, weigh};
  }
  [[nodiscard]] std::vector<GatePhase<T>> backward(std::int64_t) const override {
    GatePhase<T> phase;
    phase.label = "weigh";
    phase.reads = {kGateChoice, kGateWeight};
    phase.writes = {kDLogits};
    phase.run = [this](GateCall<T>& call) {
      const std::int64_t rows = call.x.rows, k = this->moe().top_k;
      const Matrix<Wide<T>> dz(call.tensor(kDLogits), rows, this->moe().experts);
      std::fill_n(dz.data, dz.rows * dz.cols, Wide<T>(0));
      kernels::router_sigmoid_backward<Wide<T>>(call.stream, dz,
                                                Matrix<const Wide<T>>(call.tensor(kGateWeight), rows, k),
                                                Matrix<const Wide<T>>(call.d_weight, rows, k), choices(call));
      linear_logits_backward<T>(call, 0, dz);
    };
    return {phase};
  }

 private:
  static constexpr int kLogits = kGateOwn, kDLogits = kGateOwn + 1;

  [[nodiscard]] Matrix<const std::int32_t> choices(const GateCall<T>& call) const {
    return {call.template tensor<std::int32_t>(kGateChoice), call.x.rows, this->moe().top_k};
  }
  /// K neighbours from a place that the token gives.
  void hash(GateCall<T>& call, bool counted) const {
    const auto seed = static_cast<std::uint32_t>(this->option("hash_seed"));
    const auto experts = static_cast<std::uint32_t>(this->moe().experts);
    const Matrix<const std::int32_t> choice = choices(call);
    std::int32_t* kept = call.template tensor<std::int32_t>(kGateKept);
    for (std::int64_t t = 0; t < choice.rows; ++t) {
      const std::uint32_t place = (static_cast<std::uint32_t>(call.ids.token(t)) + seed) * 2654435761U >> 7;
      for (std::int64_t k = 0; k < choice.cols; ++k)
        kept[t * choice.cols + k] = static_cast<std::int32_t>((place + static_cast<std::uint32_t>(k)) % experts);
    }
    std::copy_n(kept, choice.rows * choice.cols, call.template tensor<std::int32_t>(kGateChoice));
    if (!counted) return;
    BalanceInput<T> in;
    in.choice = in.kept = choice;
    count_balance(call, this->moe(), in);
  }
};
template <class T>
using EarlyHashGate = HashGate<T, true>;
template <class T>
using LateHashGate = HashGate<T, false>;

GateEntry with_details(GateEntry entry) {
  entry.options = {{"hash_seed", 7, 0, 1e6, true, "which hash"}};
  entry.parameters = [](const ModelConfig& m) { return std::vector{router_weight(m)}; };
  entry.check = [](const ModelConfig& m) -> std::vector<std::string> {
    if (m.moe.z_loss_coef == 0.0) return {};
    return {"model.moe.z_loss_coef: the hash gate has none; set it to 0"};
  };
  return entry;
}

// The registration.
const GateEntry& kHash = register_gate(with_details(gate_entry_of<EarlyHashGate>("test_hash", "By a hash.")));
const GateEntry& kLateHash = register_gate(with_details(gate_entry_of<LateHashGate>("test_hash_late", "The same.")));

/// A step of a small model, on 4 ranks with experts on all.
StepSpec spec_of(const std::string& gate) {
  ModelConfig model = test::small_mixtral();
  test::choose_gate(model, gate);
  return {model, make_mesh(4, 0, {4}), {1, 2, 64, 1}};
}

struct Found {
  int exchange = -1, attention = -1;  ///< First tasks, in the order of emission.
  double step_us = 0.0;
};

Found look(const std::string& gate) {
  const StepSpec spec = spec_of(gate);
  const scheduler::Shape shape = uniform_shape(spec.model.layers, {});
  const scheduler::Graph graph = emit_step(spec, shape, DType::kF64);
  Found out;
  for (int i = 0; i < static_cast<int>(graph.tasks.size()); ++i) {
    const scheduler::Stage stage = graph.tasks[static_cast<std::size_t>(i)].stage;
    if (stage == scheduler::Stage::kCountExchange && out.exchange < 0) out.exchange = i;
    if (stage == scheduler::Stage::kAttention && out.attention < 0) out.attention = i;
  }
  scheduler::Plan plan{"emitted", shape, scheduler::emission_order(graph)};
  scheduler::CostModel cost = tools::nominal_costs();
  cost.machine = {};  // as on a GPU: links do not slow computation
  out.step_us = scheduler::price(graph, plan, cost).total_us;
  return out;
}

}  // namespace

TEST_CASE("A gate that knows destinations early exchanges counts beside attention", "[gate]") {
  const Found early = look("test_hash"), late = look("test_hash_late");
  REQUIRE(early.exchange >= 0);
  CHECK(early.exchange < early.attention);
  CHECK(late.exchange > late.attention);
  CHECK(early.step_us < late.step_us);
}

TEST_CASE("Where a gate's phases stand changes no bit", "[gate][layout]") {
  test::StepCase c;
  c.model = spec_of("test_hash").model;
  c.world_size = c.ep_size = 4;
  c.micro_batch = 1;
  c.shape = {2, 3, 1, GENERATE(scheduler::Recompute::kNone, scheduler::Recompute::kFull), 1, 1};
  c.executor = scheduler::ExecutorKind::kStreams;
  const test::StepOutcome early = test::run_steps<double>(c);
  c.model.moe.gate = "test_hash_late";
  std::string where;
  CHECK(test::max_difference(early, test::run_steps<double>(c), where) == 0.0);
  c.model.moe.gate_options = {"hash_seed=8"};
  CHECK(test::max_difference(early, test::run_steps<double>(c), where) > 0.0);
}

TEST_CASE("A name that is taken cannot be registered again", "[gate]") {
  test::check_error(ErrorCode::kInvalidArgument, "there is a gate 'gshard' already",
                    [] { register_gate(gate_entry_of<EarlyHashGate>("gshard", "")); });
  test::check_error(ErrorCode::kInvalidArgument, "there is no gate 'none'", [] { (void)gate_entry("none"); });
}
