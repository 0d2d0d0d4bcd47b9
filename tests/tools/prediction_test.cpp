#include "tools/train/prediction.h"

#include "tests/support/catch.h"

using namespace weft;
using namespace weft::tools;

namespace {

scheduler::Graph two_stages() {
  scheduler::GraphBuilder b;
  scheduler::TaskSpec spec;
  for (const scheduler::Stage stage : {scheduler::Stage::kExpert, scheduler::Stage::kCombine}) {
    spec.stage = stage;
    b.add_task(spec, {}, {});
  }
  return b.take();
}

}  // namespace

TEST_CASE("Predicted is compared with the median of the steps after the first", "[prediction]") {
  const scheduler::Graph graph = two_stages();
  parallel::RunPlan plan;
  plan.cost_source = "a profile";
  plan.predicted_ms = 11.0;
  plan.predicted_stage_ms[static_cast<std::size_t>(scheduler::Stage::kExpert)] = 6.0;
  Prediction prediction;
  prediction.start(plan);
  CHECK(prediction.to_json()["step"]["error"].is_null());
  for (const double ms : {500.0, 10.0, 9.0, 100.0}) {
    parallel::StepReport report;
    report.step_ms = ms;
    prediction.add(report, graph, {{0.0, 500.0 * ms}, {500.0 * ms, 1000.0 * ms}, 1000.0 * ms});
  }
  const nlohmann::ordered_json facts = prediction.to_json();
  CHECK(facts["steps"] == 3);
  CHECK(facts["step"]["measured_ms"].get<double>() == Approx(10.0));
  CHECK(facts["step"]["error"].get<double>() == Approx(0.1));
  REQUIRE(facts["stages"].size() == 2);
  CHECK(facts["stages"][0]["stage"] == "expert");
  CHECK(facts["stages"][0]["error"].get<double>() == Approx(0.2));
  CHECK(facts["stages"][1]["predicted_ms"].get<double>() == 0.0);
  const std::vector<std::string> table = prediction.table();
  REQUIRE(table.size() == 4);
  CHECK_THAT(table.back(), Catch::Contains("11.00") && Catch::Contains("10.00") && Catch::Contains("+10.0%"));
}

TEST_CASE("An error that rounds to zero has a plus", "[prediction]") {
  parallel::RunPlan plan;
  plan.predicted_ms = 9.9999;
  Prediction prediction;
  prediction.start(plan);
  parallel::StepReport report;
  report.step_ms = 10.0;
  prediction.add(report, two_stages(), {{0.0, 0.0}, {0.0, 0.0}, 0.0});
  CHECK_THAT(prediction.table().back(), Catch::Contains(" +0.0%"));
}
