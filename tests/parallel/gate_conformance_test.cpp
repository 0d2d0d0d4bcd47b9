// What every gate of the registry keeps: declared tensors, a valid table, determinism, honest needs, exact gradients.
#include <cmath>
#include <set>

#include "tests/support/catch.h"
#include "tests/support/gate_runner.h"
#include "tests/support/gradcheck.h"

using namespace weft;
using namespace weft::parallel;
using test::GateRunner;

namespace {

constexpr std::int64_t kGroupRows = 7, kGroups = 3;

ModelConfig draw_model() {
  ModelConfig model = test::gate_model(GENERATE(from_range(test::all_gates())));
  model.moe.capacity_factor = GENERATE(0.0, 0.6);
  return model;
}

/// Random gradients of as many numbers as a tensor has.
std::vector<double> random_like(const std::vector<double>& values, std::uint64_t seed) {
  const Rng rng(seed, RngPurpose::kTest);
  std::vector<double> out;
  for (std::size_t i = 0; i < values.size(); ++i) out.push_back(rng.normal(i));
  return out;
}

template <class T>
void check_table(GateRunner<T>& run, const ModelConfig& model) {
  const TableShape table = run.table();
  const GateNeeds needs = run.gate().needs();
  const std::vector<std::int32_t> kept = run.template values<std::int32_t>(kGateKept);
  REQUIRE(kept.size() == static_cast<std::size_t>(table.rows * table.width));
  CHECK(table.rows == kGroups * table.group_rows);
  std::vector<std::int64_t> load(static_cast<std::size_t>(model.moe.experts));
  for (const std::int32_t e : kept) {
    REQUIRE(e >= -1);
    REQUIRE(e < model.moe.experts);
    if (e >= 0) ++load[static_cast<std::size_t>(e)];
    if (needs.static_shapes) CHECK(e >= 0);
  }
  for (const std::int64_t n : load)
    if (run.gate().max_rows_per_expert(run.rows()) > 0) CHECK(n <= run.gate().max_rows_per_expert(run.rows()));
  for (std::size_t e = 0; e < load.size(); ++e) CHECK(run.statistics.kept[e] == static_cast<double>(load[e]));
  for (const T w : run.template values<T>(kGateWeight)) CHECK(std::isfinite(w));
  if (needs.form == RoutingForm::kTokenList)
    for (std::int64_t t = 0; t < table.rows; ++t) {
      const std::int32_t* choice = run.template tensor<std::int32_t>(kGateChoice) + t * table.width;
      CHECK(std::set<std::int32_t>(choice, choice + table.width).size() == static_cast<std::size_t>(table.width));
      for (std::int64_t k = 0; k < table.width; ++k)
        CHECK((kept[t * table.width + k] == choice[k] || kept[t * table.width + k] == -1));
    }
}

}  // namespace

TEST_CASE("A gate's tensors and phases fit together", "[gate]") {
  const ModelConfig model = draw_model();
  GateRunner<float> run(model, kGroupRows, kGroups, 1);
  std::set<int> declared;
  for (const GateTensor& tensor : run.gate().tensors(run.rows())) {
    CHECK(tensor.id < kMaxGateTensors);
    CHECK(declared.insert(tensor.id).second);
  }
  for (const int id : {int{kGateKept}, int{kGateWeight}}) CHECK(declared.count(id) == 1);
  std::set<int> written;
  for (const auto& phase : run.gate().forward(run.rows(), true)) {
    for (const int id : phase.reads) CHECK(written.count(id) == 1);
    for (const int id : phase.writes) {
      CHECK(declared.count(id) == 1);
      written.insert(id);
    }
  }
  const GateNeeds needs = run.gate().needs();
  for (const auto& phase : run.gate().forward(run.rows(), true))
    if (phase.group != GateGroup::kNone) CHECK(needs.collective);
  if (needs.static_shapes) CHECK(!needs.count_exchange);
}

TEST_CASE("A gate's table is valid, in either type", "[gate]") {
  const ModelConfig model = draw_model();
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    GateRunner<double> wide(model, kGroupRows, kGroups, seed);
    wide.forward();
    check_table(wide, model);
    GateRunner<float> narrow(model, kGroupRows, kGroups, seed);
    narrow.forward();
    check_table(narrow, model);
  }
}

TEST_CASE("A gate gives the same bits twice, and groups know nothing of each other", "[gate]") {
  const ModelConfig model = draw_model();
  GateRunner<double> a(model, kGroupRows, kGroups, 5), b(model, kGroupRows, kGroups, 5);
  a.forward();
  b.forward();
  CHECK(a.values<double>(kGateWeight) == b.values<double>(kGateWeight));
  CHECK(a.values<std::int32_t>(kGateKept) == b.values<std::int32_t>(kGateKept));
  for (std::int64_t i = 0; i < kGroupRows * model.model_dim; ++i) b.x[b.x.size() - 1 - i] += 1.0;  // the last group
  b.forward();
  const auto first_groups = [&](const std::vector<double>& v) {
    return std::vector<double>(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / kGroups * (kGroups - 1)));
  };
  CHECK(first_groups(a.values<double>(kGateWeight)) == first_groups(b.values<double>(kGateWeight)));
  CHECK(a.values<double>(kGateWeight) != b.values<double>(kGateWeight));
}

TEST_CASE("A gate that says it looks at no later token does not", "[gate]") {
  ModelConfig model = draw_model();
  model.moe.capacity_factor = 0.0;  // with a capacity, second choices compete with later tokens' first ones
  GateRunner<double> run(model, kGroupRows, 1, 2);
  run.forward();
  const bool list = run.gate().needs().form == RoutingForm::kTokenList;
  const std::vector<double> before =
      run.values<double>(list                                                ? int{kGateWeight}
                         : run.gate().needs().form == RoutingForm::kSlotList ? int{kGateWeight}
                                                                             : int{kGateMix});
  const auto kept = run.values<std::int32_t>(kGateKept);
  const auto source = list ? kept
                           : run.values<std::int32_t>(
                                 run.gate().needs().form == RoutingForm::kSlotList ? int{kGateSource} : int{kGateKept});
  for (int j = 0; j < model.model_dim; ++j)
    run.x[run.x.size() - 1 - static_cast<std::size_t>(j)] *= 30.0;  // the last token
  run.forward();
  const auto shown = static_cast<std::ptrdiff_t>((kGroupRows - 1) * model.moe.top_k);
  if (!run.gate().needs().later_tokens) {
    const std::vector<double> after = run.values<double>(kGateWeight);
    CHECK(std::equal(before.begin(), before.begin() + shown, after.begin()));
    const auto kept_after = run.values<std::int32_t>(kGateKept);
    CHECK(std::equal(kept.begin(), kept.begin() + shown, kept_after.begin()));
    return;
  }
  if (run.gate().needs().form == RoutingForm::kSlotList)
    CHECK(source != run.values<std::int32_t>(kGateSource));  // who got in depends on the last token
  else
    CHECK(before.front() != run.values<double>(kGateMix).front());
}

TEST_CASE("A gate's gradients are those of its weights and losses", "[gate][gradient]") {
  ModelConfig model = draw_model();
  model.moe.renormalize = GENERATE(true, false);
  GateRunner<double> run(model, kGroupRows, kGroups, 3);
  if (run.gate().needs().form != RoutingForm::kSlotMatrix) model.moe.z_loss_coef = 0.01;
  GateRunner<double> gate(model, kGroupRows, kGroups, 3);
  gate.forward();
  std::vector<double> d_weight = random_like(gate.values<double>(kGateWeight), 8);
  const bool mixes = gate.gate().needs().form == RoutingForm::kSlotMatrix;
  const std::vector<double> d_mix = mixes ? random_like(gate.values<double>(kGateMix), 9) : std::vector<double>{};
  gate.backward(d_weight, d_mix);
  const auto loss = [&] {
    gate.forward();
    double sum =
        test::dot(gate.values<double>(kGateWeight), d_weight) + gate.statistics.balance_loss + gate.statistics.z_loss;
    if (mixes) sum += test::dot(gate.values<double>(kGateMix), d_mix);
    return sum;
  };
  CHECK(test::gradient_difference(gate.x, std::vector<double>(gate.dx), loss) == "");
  for (std::size_t i = 0; i < gate.weights.size(); ++i) {
    INFO("parameter " << i);
    CHECK(test::gradient_difference(gate.weights[i], std::vector<double>(gate.gradients[i]), loss) == "");
  }
}
