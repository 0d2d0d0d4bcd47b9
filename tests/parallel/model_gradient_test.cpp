// The gradient of every parameter of a whole small model against central differences, in f64.
#include <cmath>

#include "comm/factory.h"
#include "core/error.h"
#include "tests/support/catch.h"
#include "tests/support/gates.h"
#include "tests/support/gradient_probe.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;

namespace {

using GradientProbe = test::GradientProbe<double>;

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
