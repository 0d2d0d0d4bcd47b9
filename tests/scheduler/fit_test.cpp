#include "scheduler/fit.h"

#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "scheduler/cost_model.h"
#include "tests/support/catch.h"

using namespace weft;
using namespace weft::scheduler;

namespace {

std::vector<Sample> line(double alpha, double beta, std::initializer_list<double> sizes) {
  std::vector<Sample> out;
  for (const double size : sizes) out.push_back({1.0, size, alpha + beta * size});
  return out;
}

/// The weighted sum of squares that fit_linear minimises.
double loss(const std::vector<Sample>& samples, double alpha, double beta) {
  double sum = 0.0;
  for (const Sample& s : samples) {
    const double residual = alpha * s.operations + beta * s.amount - s.time_us;
    sum += residual * residual / s.time_us;
  }
  return sum;
}

TaskSpec task(Stage stage, Phase phase, WorkKind kind, double amount, ResourceSet resources = {Resource::kCompute}) {
  TaskSpec spec;
  spec.stage = stage;
  spec.phase = phase;
  spec.resources = resources;
  spec.work = {kind, amount};
  return spec;
}

}  // namespace

TEST_CASE("A fit finds the line that made the samples", "[fit]") {
  const Fit fit = fit_linear(line(12.0, 0.25, {10, 100, 1000, 10000}));
  CHECK(fit.cost.alpha_us == Approx(12.0));
  CHECK(fit.cost.beta_us == Approx(0.25));
  CHECK(fit.r_squared.value() == Approx(1.0));
  CHECK(fit.samples.size() == 4);
  CHECK(std::abs(fit.residual_us(fit.samples[2])) < 1e-9);
}

TEST_CASE("Operations carry alpha", "[fit]") {
  const std::vector<Sample> samples{{1, 100, 60}, {4, 100, 90}, {2, 800, 420}};  // 10 per operation, 0.5 per byte
  const Fit fit = fit_linear(samples);
  CHECK(fit.cost.alpha_us == Approx(10.0));
  CHECK(fit.cost.beta_us == Approx(0.5));
}

TEST_CASE("A fit is the best one with neither constant negative", "[fit]") {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    INFO("seed " << seed);
    const Rng rng(seed, RngPurpose::kTest);
    std::vector<Sample> samples;
    for (std::uint64_t i = 0; i < 3 + seed % 6; ++i)
      samples.push_back({1.0 + double(rng.below(3, 3 * i)), 1e3 * rng.uniform(3 * i + 1) * double(i + 1),
                         1.0 + 50.0 * rng.uniform(3 * i + 2)});
    samples.push_back({1.0, 1e4, 30.0});
    const Fit fit = fit_linear(samples);
    const auto [alpha, beta] = fit.cost;
    REQUIRE(alpha >= 0.0);
    REQUIRE(beta >= 0.0);
    const double best = loss(samples, alpha, beta);
    for (const double da : {-0.01, 0.0, 0.01})
      for (const double db : {-0.01, 0.0, 0.01}) {
        const double a = std::max(0.0, alpha + da * (alpha + 1.0)), b = std::max(0.0, beta + db * (beta + 1e-3));
        CHECK(loss(samples, a, b) >= best * (1 - 1e-9));
      }
  }
}

TEST_CASE("Small sizes are not drowned by large ones", "[fit]") {
  std::vector<Sample> samples = line(5.0, 1e-3, {100, 1e3, 1e4, 1e7});
  samples.back().time_us *= 1.02;  // 200 us of noise, forty times the alpha
  CHECK(fit_linear(samples).cost.alpha_us == Approx(5.0).epsilon(0.02));
}

TEST_CASE("Samples of one size say nothing about the slope", "[fit]") {
  const std::vector<Sample> samples = line(0.0, 0.5, {100, 104, 96});
  CHECK(!fit_linear(samples).r_squared);
  const Fit hinted = fit_linear(samples, 20.0);
  CHECK(hinted.cost.alpha_us == 20.0);
  CHECK(hinted.cost.at(1, 100) == Approx(50.0));
  CHECK(fit_linear(samples, 80.0).cost.alpha_us == Approx(50.0));  // never more than the time
  CHECK(fit_linear({{1, 0, 7}}).cost == LinearCost{7.0, 0.0});
  CHECK(fit_linear({}).samples.empty());
  CHECK(fit_linear({{1, 10, 0.0}}).samples.empty());
}

TEST_CASE("A line through two sizes explains nothing", "[fit]") {
  CHECK(num_sizes(line(0.0, 1.0, {100, 104, 96})) == 1);
  CHECK(num_sizes(line(0.0, 1.0, {1000, 100, 10, 104, 11})) == 3);
  CHECK(num_sizes({}) == 0);
  CHECK(num_sizes(line(0.0, 1.0, {0, 0, 1})) == 2);
  CHECK(!fit_linear(line(1.0, 0.5, {100, 104, 1000, 1010})).r_squared);
  CHECK(fit_linear(line(1.0, 0.5, {100, 104, 1000, 2000})).r_squared);
}

TEST_CASE("R squared falls when the line does not explain the samples", "[fit]") {
  const std::vector<Sample> samples{{1, 1, 10}, {1, 2, 40}, {1, 3, 12}, {1, 4, 38}, {1, 5, 11}, {1, 6, 42}};
  CHECK(fit_linear(samples).r_squared.value() < 0.5);
}

TEST_CASE("A quantile lies between its neighbours", "[fit]") {
  CHECK(quantile({3, 1, 2}, 0.5) == 2.0);
  CHECK(quantile({1, 2, 3, 4}, 0.5) == 2.5);
  CHECK(quantile({1, 2}, 1.0) == 2.0);
  CHECK(quantile({1, 2}, 0.0) == 1.0);
  CHECK_THROWS_AS(quantile({}, 0.5), Error);
  CHECK_THROWS_AS(quantile({1}, 1.5), Error);
}

TEST_CASE("The finest family prices a task, its kind of work prices the rest", "[cost_model]") {
  CostModel model;
  model.intra[static_cast<int>(WorkKind::kGroupedGemm)] = {1.0, 1.0};
  const TaskSpec forward = task(Stage::kExpert, Phase::kForward, WorkKind::kGroupedGemm, 10.0);
  TaskSpec backward = task(Stage::kExpert, Phase::kBackward, WorkKind::kGroupedGemm, 10.0);
  CHECK(model.cost_us(forward) == 11.0);
  model.add(Family{family_of(backward), {{5.0, 2.0}, 1.0, {}}});
  CHECK(model.cost_us(backward) == 25.0);
  CHECK(model.cost_us(forward) == 11.0);
  backward.label = "another";
  CHECK(model.cost_us(backward) == 11.0);
  model.add(Family{family_of(backward), {{0.0, 3.0}, 1.0, {}}});
  CHECK(model.cost_us(backward) == 30.0);
  model.add(Family{family_of(backward), {{0.0, 4.0}, 1.0, {}}});  // replaces
  CHECK(model.cost_us(backward) == 40.0);
  CHECK(model.families().size() == 2);
}

TEST_CASE("Collectives are priced by the links they take", "[cost_model]") {
  const auto kind = static_cast<std::size_t>(WorkKind::kAllToAll);
  CostModel model;
  model.intra[kind] = {1.0, 0.0};
  model.inter[kind] = {2.0, 0.0};
  const auto price = [&](ResourceSet links) {
    return model.cost_us(task(Stage::kGate, Phase::kForward, WorkKind::kAllToAll, 1.0, links));
  };
  CHECK(price({Resource::kIntra}) == 1.0);
  CHECK(price({Resource::kInter}) == 2.0);
  CHECK(price({Resource::kIntra, Resource::kInter}) == 2.0);
  model.both.emplace();
  (*model.both)[kind] = {3.0, 0.0};
  CHECK(price({Resource::kIntra, Resource::kInter}) == 3.0);
  model.add(Family{family_of(task(Stage::kGate, Phase::kForward, WorkKind::kAllToAll, 1.0, {Resource::kInter})),
                   {{9.0, 0.0}, 1.0, {}}});
  CHECK(price({Resource::kInter}) == 9.0);
  CHECK(price({Resource::kIntra}) == 1.0);
}

TEST_CASE("Imbalance multiplies what follows the experts' load", "[cost_model]") {
  CostModel model;
  model.imbalance = 1.5;
  for (const WorkKind kind : {WorkKind::kAllToAll, WorkKind::kGroupedGemm, WorkKind::kMemory})
    model.intra[static_cast<std::size_t>(kind)] = {1.0, 1.0};
  const auto price = [&](Stage stage, WorkKind kind) {
    return model.cost_us(task(stage, Phase::kForward, kind, 10.0));
  };
  CHECK(price(Stage::kDispatch, WorkKind::kAllToAll) == 16.0);
  CHECK(price(Stage::kExpert, WorkKind::kGroupedGemm) == 16.0);
  CHECK(price(Stage::kCombine, WorkKind::kAllToAll) == 16.0);
  CHECK(price(Stage::kOrder, WorkKind::kMemory) == 11.0);
  CHECK(price(Stage::kIOrder, WorkKind::kMemory) == 11.0);
  CHECK(imbalance_quantile({1.0, 1.2, 1.4, 2.0}, 0.5) == Approx(1.3));
  model.layer_imbalance = {2.0, 3.0};
  TaskSpec dispatch = task(Stage::kDispatch, Phase::kForward, WorkKind::kAllToAll, 10.0);
  for (const auto& [layer, cost] : {std::pair{0, 21.0}, std::pair{1, 31.0}, std::pair{2, 16.0}, std::pair{-1, 16.0}}) {
    dispatch.layer = static_cast<std::int16_t>(layer);
    CHECK(model.cost_us(dispatch) == cost);
  }
  CHECK_THROWS_AS(imbalance_quantile({0.5}, 0.5), Error);
}

TEST_CASE("Measured tasks become families, with their kind's line behind them", "[cost_model]") {
  std::vector<TaskSample> samples;
  const FamilyKey norm = family_of(task(Stage::kNorm, Phase::kForward, WorkKind::kMemory, 0)),
                  order = family_of(task(Stage::kOrder, Phase::kForward, WorkKind::kMemory, 0));
  for (const double n : {1e3, 1e4, 1e5}) samples.emplace_back(norm, Sample{1, n, 2.0 + 1e-3 * n});
  samples.emplace_back(order, Sample{1, 1e4, 50.0});  // one size
  const CostModel model = fit_cost_model(samples);
  CHECK(model.cost_us(task(Stage::kNorm, Phase::kForward, WorkKind::kMemory, 3e4)) == Approx(32.0));
  CHECK(model.cost_us(task(Stage::kOrder, Phase::kForward, WorkKind::kMemory, 1e4)) == Approx(50.0));
  const double unknown = model.cost_us(task(Stage::kIOrder, Phase::kForward, WorkKind::kMemory, 1e4));
  CHECK(unknown > 12.0);
  CHECK(unknown < 50.0);
  CHECK(model.families().size() == 2);
  CHECK(model.cost_us(task(Stage::kIOrder, Phase::kForward, WorkKind::kGemm, 1e4)) == 0.0);

  const CostModel probed = fit_cost_model(samples, {{order, {1, 1e3, 7.0}}, {order, {1, 1e5, 700.0}}});
  CHECK(probed.cost_us(task(Stage::kIOrder, Phase::kForward, WorkKind::kMemory, 1e4)) == Approx(70.0));
  CHECK(probed.cost_us(task(Stage::kOrder, Phase::kForward, WorkKind::kMemory, 1e4)) == Approx(50.0));
  REQUIRE(probed.kinds().size() == 1);
  CHECK(!probed.kinds()[0].pooled);
  CHECK(model.kinds()[0].pooled);
}

TEST_CASE("What a model lacks for a graph is named", "[cost_model]") {
  GraphBuilder b;
  b.add_task(task(Stage::kNorm, Phase::kForward, WorkKind::kMemory, 5.0), {}, {});
  b.add_task(task(Stage::kDispatch, Phase::kBackward, WorkKind::kAllToAll, 5.0, {Resource::kInter}), {}, {});
  b.add_task(task(Stage::kDispatch, Phase::kBackward, WorkKind::kAllToAll, 6.0, {Resource::kInter}), {}, {});
  b.add_task(task(Stage::kOrder, Phase::kForward, WorkKind::kNothing, 5.0), {}, {});
  const Graph graph = b.take();
  CostModel model;
  model.intra[static_cast<std::size_t>(WorkKind::kMemory)] = {1.0, 0.0};
  CHECK(unpriced(graph, model) == std::vector<std::string>{"dispatch(backward), all_to_all inter"});
  model.inter[static_cast<std::size_t>(WorkKind::kAllToAll)] = {0.0, 1.0};
  CHECK(unpriced(graph, model).empty());
}

TEST_CASE("A refit multiplies a family's constants, and keeps one sample a size", "[cost_model]") {
  GraphBuilder b;
  for (const double amount : {5.0, 5.0, 8.0})
    b.add_task(task(Stage::kNorm, Phase::kForward, WorkKind::kMemory, amount), {}, {});
  b.add_task(task(Stage::kOrder, Phase::kForward, WorkKind::kMemory, 5.0), {}, {});
  const Graph graph = b.take();
  CostModel prior;
  prior.intra[static_cast<std::size_t>(WorkKind::kMemory)] = {1.0, 2.0};
  const Timeline simulated{{0.0, 11.0, 22.0, 39.0}, {11.0, 22.0, 39.0, 50.0}, 50.0};
  const CostModel out = refit(prior, graph, simulated, {20.0, 24.0, 34.0, 11.0});  // norm: 78 us, not 39
  REQUIRE(out.families().size() == 2);
  for (const Family& family : out.families())
    if (family.key.stage == Stage::kNorm) {
      CHECK(family.fit.cost == LinearCost{2.0, 4.0});
      CHECK(family.fit.samples == std::vector<Sample>{{1.0, 5.0, 22.0}, {1.0, 8.0, 34.0}});
    } else {
      CHECK(family.fit.cost == LinearCost{1.0, 2.0});
    }
}
