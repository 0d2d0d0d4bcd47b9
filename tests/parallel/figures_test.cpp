#include "parallel/train/figures.h"

#include <cmath>
#include <limits>
#include <map>

#include "parallel/step/step_state.h"
#include "tests/support/catch.h"

using namespace weft;
using namespace weft::parallel;

namespace {

MetricsLine line() {
  MetricsLine out;
  out.add("step", 7);
  out.add("loss", 1.5);
  out.add("grad_norm", std::numeric_limits<double>::quiet_NaN());
  out.add("tokens", std::int64_t{4096});
  out.add("step_ms", 250.0);
  out.add("model_tflops", 0.5);
  out.add("expert_tokens", std::vector<std::vector<std::int64_t>>{{1, 2}});
  return out;
}

}  // namespace

TEST_CASE("A line knows its numbers", "[metrics]") {
  CHECK(line().number("loss") == 1.5);
  CHECK(line().number("step") == 7.0);
  CHECK_FALSE(line().number("grad_norm"));
  CHECK_FALSE(line().number("expert_tokens"));
  CHECK_FALSE(line().number("none"));
}

TEST_CASE("Prometheus gets base units, counters and escaped labels", "[metrics]") {
  const std::string text = prometheus_text(line(), R"(a"b\c)");
  CHECK_THAT(text, Catch::Contains("# TYPE weft_loss gauge\nweft_loss{run=\"a\\\"b\\\\c\"} 1.5\n"));
  CHECK_THAT(text, Catch::Contains("# TYPE weft_tokens_total counter\nweft_tokens_total{run="));
  CHECK_THAT(text, Catch::Contains("weft_step_seconds{run=\"a\\\"b\\\\c\"} 0.25\n"));
  CHECK_THAT(text, Catch::Contains("} 500000000000\n"));
  CHECK_THAT(text, !Catch::Contains("gradient_norm"));  // not finite
  CHECK_THAT(text, !Catch::Contains("expert_tokens"));
}

TEST_CASE("TensorBoard gets the figures of the step and of each MoE layer", "[metrics]") {
  StepResult result;
  result.router.resize(3);
  result.router[1].choices = {4, 0, 0, 0};
  result.router[2].choices = {1, 1, 1, 1};
  std::map<std::string, double> scalars;
  for (const auto& [tag, value] : tensorboard_scalars(line(), result)) scalars[tag] = value;
  CHECK(scalars.at("loss_metrics/global_avg_loss") == 1.5);
  CHECK(scalars.at("time_metrics/end_to_end(s)") == 0.25);
  CHECK(scalars.at("moe/layer_01/max_vio") == 3.0);
  CHECK(scalars.at("moe/layer_01/entropy") == 0.0);
  CHECK(scalars.at("moe/layer_01/dead_experts") == 3.0);
  CHECK(scalars.at("moe/layer_02/max_vio") == 0.0);
  CHECK(scalars.at("moe/layer_02/entropy") == Approx(1.0));
  CHECK(scalars.count("moe/layer_00/max_vio") == 0);
  CHECK(scalars.count("grad_norm") == 0);
}
