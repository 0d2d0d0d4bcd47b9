// What defines each gate, from its formula.
#include <cmath>
#include <numeric>

#include "tests/support/catch.h"
#include "tests/support/gate_runner.h"

using namespace weft;
using namespace weft::parallel;
using test::GateRunner;

namespace {

constexpr std::int64_t kRows = 8, kGroups = 2;

double logit(const GateRunner<double>& run, const ModelConfig& m, std::int64_t t, int e, std::size_t parameter = 0) {
  double sum = 0.0;
  for (int j = 0; j < m.model_dim; ++j)
    sum += run.x[static_cast<std::size_t>(t * m.model_dim + j)] *
           run.weights[parameter][static_cast<std::size_t>(e * m.model_dim + j)];
  return sum;
}

}  // namespace

TEST_CASE("Sigmoid: the largest logits, each weighted by its own sigmoid", "[gate]") {
  const ModelConfig m = test::gate_model("sigmoid");
  GateRunner<double> run(m, kRows, kGroups, 4);
  run.forward();
  for (std::int64_t t = 0; t < run.rows(); ++t) {
    const std::int32_t* choice = run.tensor<std::int32_t>(kGateChoice) + t * m.moe.top_k;
    for (int k = 0; k < m.moe.top_k; ++k)
      CHECK(run.tensor<double>(kGateWeight)[t * m.moe.top_k + k] ==
            Approx(1.0 / (1.0 + std::exp(-logit(run, m, t, choice[k])))));
    for (int e = 0; e < m.moe.experts; ++e)
      if (e != choice[0] && e != choice[1]) CHECK(logit(run, m, t, e) <= logit(run, m, t, choice[1]));
  }
}

TEST_CASE("GShard: softmax top-k without noise, keyed noise with it", "[gate]") {
  const ModelConfig m = test::gate_model("gshard");
  GateRunner<double> run(m, kRows, kGroups, 4), plain(test::gate_model("softmax_top_k"), kRows, kGroups, 4);
  plain.x = run.x;
  plain.weights[0] = run.weights[0];
  plain.forward();
  run.state.gate_noise = false;
  run.forward();
  const std::vector<double> quiet = run.values<double>(kGateWeight);
  CHECK(quiet == plain.values<double>(kGateWeight));
  CHECK(run.values<std::int32_t>(kGateChoice) == plain.values<std::int32_t>(kGateChoice));

  run.state.gate_noise = true;
  run.forward();
  const std::vector<double> noisy = run.values<double>(kGateWeight);
  CHECK(noisy != quiet);
  SECTION("another step draws other noise") {
    ++run.state.step;
    run.forward();
    CHECK(run.values<double>(kGateWeight) != noisy);
  }
  SECTION("noise follows the sample, wherever it lies") {
    const std::vector<std::int64_t> samples{1, 0};  // the two sequences change places
    std::rotate(run.x.begin(), run.x.begin() + static_cast<std::ptrdiff_t>(run.x.size() / 2), run.x.end());
    run.ids.samples = samples.data();
    run.forward();
    std::vector<double> swapped = run.values<double>(kGateWeight);
    std::rotate(swapped.begin(), swapped.begin() + static_cast<std::ptrdiff_t>(swapped.size() / 2), swapped.end());
    CHECK(swapped == noisy);
  }
  SECTION("the size of the noise is softplus(x Wnoise)") {
    std::fill(run.weights[1].begin(), run.weights[1].end(), 0.0);  // softplus(0) = ln 2
    std::fill(run.weights[0].begin(), run.weights[0].end(), 0.0);
    run.forward();
    const Rng rng(run.state.seed, RngPurpose::kGateNoise, static_cast<std::uint64_t>(run.state.step), 0);
    for (std::int64_t t = 0; t < run.rows(); ++t) {
      std::vector<double> noise;
      for (int e = 0; e < m.moe.experts; ++e)
        noise.push_back(std::log(2.0) * rng.normal(static_cast<std::uint64_t>(t / kRows),
                                                   static_cast<std::uint64_t>(t % kRows * m.moe.experts + e)));
      const std::int32_t* choice = run.tensor<std::int32_t>(kGateChoice) + t * m.moe.top_k;
      const double ratio =
          std::exp(noise[static_cast<std::size_t>(choice[0])] - noise[static_cast<std::size_t>(choice[1])]);
      CHECK(run.tensor<double>(kGateWeight)[t * 2] / run.tensor<double>(kGateWeight)[t * 2 + 1] == Approx(ratio));
    }
  }
}

TEST_CASE("X-MoE: only directions count", "[gate]") {
  const ModelConfig m = test::gate_model("xmoe");
  GateRunner<double> run(m, kRows, kGroups, 4);
  run.forward();
  const auto weight = run.values<double>(kGateWeight);
  const auto choice = run.values<std::int32_t>(kGateChoice);
  for (double& x : run.x) x *= 4.0;
  for (double& w : run.weights[1]) w *= 0.5;  // the experts' vectors
  run.forward();
  CHECK(run.values<std::int32_t>(kGateChoice) == choice);
  const auto scaled = run.values<double>(kGateWeight);
  for (std::size_t i = 0; i < weight.size(); ++i) CHECK(scaled[i] == Approx(weight[i]).epsilon(1e-12));
  run.weights[2][0] += 1.0;  // a higher temperature: flatter weights
  run.forward();
  for (std::size_t i = 0; i < weight.size(); i += 2) CHECK(run.values<double>(kGateWeight)[i] <= weight[i] + 1e-15);
}

TEST_CASE("Expert choice: every expert has its C best tokens of each group, ties to the lower position", "[gate]") {
  ModelConfig m = test::gate_model("expert_choice");
  m.moe.capacity_factor = GENERATE(0.0, 0.6);
  GateRunner<double> run(m, kRows, kGroups, 4);
  const bool ties = GENERATE(false, true);
  if (ties) std::fill(run.x.begin(), run.x.end(), 1.0);
  run.forward();
  const std::int64_t slots = run.table().group_rows;
  CHECK(slots == (m.moe.capacity_factor > 0 ? 3 : 4));  // ceil(0.6 * 2 * 8 / 4) and 2 * 8 / 4
  const auto probability = [&](std::int64_t t, int e) {
    double sum = 0.0;
    for (int i = 0; i < m.moe.experts; ++i) sum += std::exp(logit(run, m, t, i));
    return std::exp(logit(run, m, t, e)) / sum;
  };
  for (std::int64_t g = 0; g < kGroups; ++g)
    for (int e = 0; e < m.moe.experts; ++e) {
      std::vector<bool> chosen(kRows);
      double worst = 1.0;
      for (std::int64_t j = 0; j < slots; ++j) {
        const std::int64_t entry = (g * slots + j) * m.moe.experts + e;
        const std::int32_t t = run.tensor<std::int32_t>(kGateSource)[entry];
        REQUIRE(t / kRows == g);
        CHECK(!chosen[static_cast<std::size_t>(t % kRows)]);
        chosen[static_cast<std::size_t>(t % kRows)] = true;
        CHECK(run.tensor<double>(kGateWeight)[entry] == Approx(probability(t, e)));
        worst = std::min(worst, probability(t, e));
        if (ties) CHECK(t % kRows == j);
      }
      for (std::int64_t t = 0; t < kRows; ++t)
        if (!chosen[static_cast<std::size_t>(t)]) CHECK(probability(g * kRows + t, e) <= worst * (1 + 1e-12));
    }
}

TEST_CASE("Soft MoE: slots mix the tokens of their group, tokens mix its slots", "[gate]") {
  const ModelConfig m = test::gate_model("soft_moe");
  GateRunner<double> run(m, kRows, kGroups, 4);
  run.forward();
  const std::int64_t columns = m.moe.experts * 2;
  const double *mix = run.tensor<double>(kGateMix), *combine = run.tensor<double>(kGateWeight);
  for (std::int64_t t = 0; t < run.rows(); ++t)
    CHECK(std::accumulate(combine + t * columns, combine + (t + 1) * columns, 0.0) == Approx(1.0));
  for (std::int64_t g = 0; g < kGroups; ++g)
    for (std::int64_t s = 0; s < columns; ++s) {
      double sum = 0.0;
      for (std::int64_t t = g * kRows; t < (g + 1) * kRows; ++t) sum += mix[t * columns + s];
      CHECK(sum == Approx(1.0));
      // Both softmaxes are of the same logits: ratios of two tokens in a slot, of two slots in a token.
      const double by_token = mix[(g * kRows) * columns + s] / mix[(g * kRows + 1) * columns + s];
      const double logits =
          logit(run, m, g * kRows, static_cast<int>(s)) - logit(run, m, g * kRows + 1, static_cast<int>(s));
      CHECK(by_token == Approx(std::exp(logits)));
    }
}
