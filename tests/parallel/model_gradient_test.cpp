// The gradient of every parameter of a whole small model against central differences, in f64.
#include <cmath>

#include "comm/factory.h"
#include "core/error.h"
#include "core/rng.h"
#include "parallel/step/step_builder.h"
#include "scheduler/order.h"
#include "tests/support/catch.h"
#include "tests/support/gates.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;

namespace {

/// A model with its step in kGradients mode, and the scalar that the step differentiates.
class GradientProbe {
 public:
  GradientProbe(const ModelConfig& model, comm::Communicator& world, const ShapeOptions& shape_options)
      : model_(model),
        mesh_(make_mesh(1, 0, {})),
        comms_(world, mesh_),
        table_(model, mesh_),
        store_(table_, Device{}, false) {
    initialize_weights(store_, model, 7);
    const Rng rng(3, RngPurpose::kTest);
    for (int i = 0; i < kSequences * kLength; ++i) {
      tokens_.push_back(static_cast<std::int32_t>(
          rng.below(static_cast<std::uint64_t>(model.vocab_size), static_cast<std::uint64_t>(i))));
      targets_.push_back(i % 5 == 4 ? -1
                                    : static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(model.vocab_size),
                                                                          static_cast<std::uint64_t>(1000 + i))));
      positions_.push_back(i % kLength);
      segments_.push_back(i / kLength);
      valid_ += targets_.back() >= 0;
    }
    state_.previous_choices.assign(static_cast<std::size_t>(model.layers),
                                   std::vector<double>(static_cast<std::size_t>(model.moe.experts), 0.0));
    state_.num_valid_tokens = valid_;
    state_.num_tokens = kSequences * kLength;
    state_.num_groups = kSequences;
    state_.gate_noise = true;
    state_.batches = {{tokens_.data(), targets_.data(), positions_.data(), segments_.data()}};
    const StepSpec spec{model, mesh_, {1, kSequences, kLength, 1}, StepMode::kGradients, false};
    const scheduler::Shape shape = uniform_shape(model.layers, shape_options);
    const auto graph = emit_step(spec, shape, DType::kF64);
    step_ = std::make_unique<BoundStep<double>>(spec, scheduler::sequential_plan(graph, shape),
                                                Runtime<double>{&store_, &comms_, &state_, nullptr});
  }
  /// The loss that training minimises: cross-entropy, balance loss and z-loss.
  double loss() {
    step_->run();
    const StepResult r = unpack(state_.sums, model_, valid_);
    return r.loss + r.balance_loss + r.z_loss;
  }
  [[nodiscard]] ParameterStore<double>& store() { return store_; }

 private:
  static constexpr int kSequences = 2, kLength = 6;
  ModelConfig model_;
  Mesh mesh_;
  MeshComms comms_;
  ParameterTable table_;
  ParameterStore<double> store_;
  StepState state_;
  std::vector<std::int32_t> tokens_, targets_, positions_, segments_;
  double valid_ = 0;
  std::unique_ptr<BoundStep<double>> step_;
};

/// Directional derivatives of each tensor along its own gradient: |g|^2 must be what the loss does. Returns the worst
/// relative error.
double worst_error(GradientProbe& probe, std::string& where) {
  probe.loss();
  ParameterStore<double>& store = probe.store();
  const std::vector<double> gradient(store.gradients(), store.gradients() + store.table().count());
  double worst = 0.0;
  for (const LocalParameter& p : store.table().parameters()) {
    double squares = 0.0;
    for (std::int64_t i = 0; i < p.count(); ++i) squares += gradient[p.offset + i] * gradient[p.offset + i];
    const double norm = std::sqrt(squares);
    if (norm < 1e-12) continue;  // key biases: zero but for rounding
    constexpr double kStep = 1e-5;
    const std::vector<double> saved(store.weights() + p.offset, store.weights() + p.offset + p.count());
    const auto moved_loss = [&](double sign) {
      for (std::int64_t i = 0; i < p.count(); ++i)
        store.weights()[p.offset + i] = saved[i] + sign * kStep * gradient[p.offset + i] / norm;
      return probe.loss();
    };
    const double slope = (moved_loss(1) - moved_loss(-1)) / (2 * kStep);
    std::copy(saved.begin(), saved.end(), store.weights() + p.offset);
    const double error = std::abs(slope - norm) / std::max(norm, 1e-3);
    if (!(error <= worst)) {
      worst = error;
      where = str(p.spec.name, ": slope ", slope, ", gradient ", norm);
    }
  }
  return worst;
}

}  // namespace

TEST_CASE("The whole model's gradient is that of its loss", "[gradient]") {
  ModelConfig model = GENERATE(test::small_mixtral(), test::small_gpt2_moe());
  model.moe.balance_loss_coef = 0.1;
  model.moe.z_loss_coef = 0.01;
  ShapeOptions shape;
  SECTION("as it is") {}
  SECTION("chunks, deferred dW, full recompute") { shape = {3, 2, true, scheduler::Recompute::kFull}; }
  SECTION("capacity without renormalisation") {
    model.moe.capacity_factor = 0.8;
    model.moe.renormalize = false;
  }
  SECTION("top-1") { model.moe.top_k = 1; }
  SECTION("pooled balance loss") { model.moe.balance_form = BalanceForm::kHuggingFace; }
  SECTION("untied, all layers MoE") {
    model.tie_embeddings = false;
    model.layer_pattern = "M";
  }
  SECTION("other gates") {
    test::choose_gate(model, GENERATE(from_range(test::all_gates())));
    shape = {3, 2, 1, GENERATE(scheduler::Recompute::kNone, scheduler::Recompute::kFull)};
  }
  double worst = 1.0;
  std::string where;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    GradientProbe probe(model, world, shape);
    worst = worst_error(probe, where);
  });
  INFO(where);
  CHECK(worst < 1e-6);
}
