#include "tools/report/report.h"

#include <cmath>

#include "scheduler/trace.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tools/report/metrics_table.h"
#include "tools/report/router_view.h"
#include "tools/report/step_view.h"
#include "tools/report/traffic_view.h"

using namespace weft;
using namespace weft::tools;
using nlohmann::ordered_json;
using scheduler::Resource;
using test::put_bytes;

namespace {

const std::string kSchema = "{\"schema\": 1, \"format\": \"weft.metrics\"}\n";

MetricsTable table_of(const std::string& lines) {
  const test::TempFolder folder;
  put_bytes(folder / "metrics.jsonl", kSchema + lines);
  return read_metrics(folder / "metrics.jsonl");
}

/// Compute for 6 us, and beside it communication from 4 to 9 us, of which 2 us are on both links.
scheduler::Graph small_step() {
  scheduler::GraphBuilder b;
  scheduler::TaskSpec spec;
  spec.stage = scheduler::Stage::kExpert;
  spec.label = "up";
  spec.layer = 3;
  spec.micro_batch = 1;
  b.add_task(spec, {}, {});
  spec.stage = scheduler::Stage::kDispatch;
  spec.label = "";
  spec.resources = {Resource::kIntra};
  spec.chunk = 2;
  b.add_task(spec, {}, {});
  spec.resources = {Resource::kIntra, Resource::kInter};
  b.add_task(spec, {}, {});
  return b.take();
}
const scheduler::Timeline kTimes{{0.0, 4.0, 7.0}, {6.0, 7.0, 9.0}, 9.0};

}  // namespace

TEST_CASE("metrics.jsonl is read into columns", "[report]") {
  const MetricsTable table = table_of(
      "{\"step\": 1, \"loss\": 5.5}\n"
      "{\"step\": 2, \"loss\": null, \"val_loss\": 3.0, \"expert_tokens\": [[1, 2], [3, 0]]}\n"
      "{\"step\": 3, \"lo");  // killed while it wrote
  CHECK(table.step == std::vector<std::int64_t>{1, 2});
  CHECK(table.column.at("loss")[0] == 5.5);
  CHECK(std::isnan(table.column.at("loss")[1]));
  CHECK(std::isnan(table.column.at("val_loss")[0]));
  REQUIRE(table.router.size() == 1);
  CHECK(table.router[0].step == 2);
  CHECK(table.router[0].tokens == std::vector<std::vector<std::int64_t>>{{1, 2}, {3, 0}});
  const ordered_json curves = curves_json(table);
  CHECK(curves["column"]["loss"] == ordered_json::array({5.5, nullptr}));
  CHECK(curves["validation"] == ordered_json{{"step", {2}}, {"loss", {3.0}}});
}

TEST_CASE("What is no metrics.jsonl is refused by line", "[report]") {
  const test::TempFolder folder;
  put_bytes(folder / "other", "{\"schema\": 1}\n");
  test::check_error(ErrorCode::kInvalidArgument, "weft.metrics", [&] { (void)read_metrics(folder / "other"); });
  test::check_error(ErrorCode::kIo, "none", [&] { (void)read_metrics(folder / "none"); });
  put_bytes(folder / "cut", kSchema + "{\"step\": 1, \"lo\n{\"step\": 2, \"loss\": 1.0}\n");
  test::check_error(ErrorCode::kInvalidArgument, "cut:2", [&] { (void)read_metrics(folder / "cut"); });
  put_bytes(folder / "stepless", kSchema + "{\"loss\": 1.0}\n");
  test::check_error(ErrorCode::kInvalidArgument, "stepless:2", [&] { (void)read_metrics(folder / "stepless"); });
  test::check_error(ErrorCode::kIo, "metrics.jsonl", [&] { (void)make_report(folder.path()); });
}

TEST_CASE("A metrics.jsonl of another schema is refused with both, an empty one has no steps", "[report]") {
  const test::TempFolder folder;
  for (const std::string schema : {"9", "\"1\"", "null"}) {
    put_bytes(folder / "m", "{\"schema\": " + schema + ", \"format\": \"weft.metrics\"}\n");
    test::check_error(ErrorCode::kInvalidArgument,
                      (folder / "m").string() + ": schema " + schema + ", this weft knows schema 1",
                      [&] { (void)read_metrics(folder / "m"); });
  }
  put_bytes(folder / "m", "{\"schema\": 1, \"format\": 3}\n");
  test::check_error(ErrorCode::kInvalidArgument, "weft.metrics", [&] { (void)read_metrics(folder / "m"); });
  put_bytes(folder / "m", "");
  CHECK(read_metrics(folder / "m").step.empty());
}

TEST_CASE("A long run keeps its ends and its extremes", "[report]") {
  std::string lines;
  for (int step = 1; step <= 5000; ++step)
    lines += str("{\"step\": ", step, ", \"val_loss\": ", step, ", \"loss\": ",
                 step == 1234   ? 99.0
                 : step == 4321 ? -99.0
                                : 1.0 / step,
                 "}\n");
  const ordered_json curves = curves_json(table_of(lines), 100);
  CHECK(curves["steps"] == 5000);
  CHECK(curves["shown"].get<int>() <= 100);
  CHECK(curves["shown"] == curves["step"].size());
  CHECK(curves["step"].front() == 1);
  CHECK(curves["step"].back() == 5000);
  std::vector<double> loss = curves["column"]["loss"];
  CHECK(*std::max_element(loss.begin(), loss.end()) == 99.0);
  CHECK(*std::min_element(loss.begin(), loss.end()) == -99.0);
  CHECK(curves["validation"]["step"].size() == 100);
  CHECK(curves["validation"]["step"].back() == 5000);
  CHECK(curves["validation"]["loss"].back() == 5000.0);
  for (std::size_t i = 1; i < curves["step"].size(); ++i)
    REQUIRE(curves["step"][i - 1].get<int>() < curves["step"][i].get<int>());
}

TEST_CASE("The router's figures follow their formulas", "[report]") {
  const std::vector<RouterRecord> records{{10, {{4, 0, 0, 0}, {1, 1, 1, 1}}}, {20, {{0, 4, 0, 0}, {1, 1, 1, 1}}}};
  const ordered_json router = router_json(records, {1, 3});
  CHECK(router["records"] == 2);
  CHECK(router["experts"] == 4);
  CHECK(router["step"] == ordered_json::array({10, 20}));
  const ordered_json& uneven = router["layers"][0];
  CHECK(uneven["layer"] == 1);
  CHECK(uneven["tokens"] == ordered_json::array({4, 4, 0, 0}));
  CHECK(uneven["max_vio"].get<double>() == Approx(1.0));
  CHECK(uneven["entropy"].get<double>() == Approx(0.5));
  CHECK(uneven["cv"].get<double>() == Approx(1.0));
  CHECK(uneven["dead_experts"] == 2);
  CHECK(router["layers"][1]["entropy"].get<double>() == Approx(1.0));
  CHECK(router["util"][0][0] == ordered_json::array({4000, 0, 0, 0}));
  CHECK(router["util"][1][1] == ordered_json::array({1000, 1000, 1000, 1000}));
  const ordered_json together = router_json(records, {1, 3}, 8);  // room for one column
  CHECK(together["step"] == ordered_json::array({20}));
  CHECK(together["util"][0][0] == ordered_json::array({2000, 2000, 0, 0}));
  CHECK(router_json({}, {}).is_null());
}

TEST_CASE("A step read back from its trace has the tasks, overlaps and lanes of the step", "[report]") {
  const scheduler::Graph graph = small_step();
  const scheduler::TraceProcess processes[] = {{"measured, step 5", &graph, &kTimes}, {"simulated", &graph, &kTimes}};
  const std::vector<StepView> steps = read_trace(scheduler::chrome_trace(processes), "t");
  REQUIRE(steps.size() == 2);
  CHECK(steps[0].name == "measured, step 5");
  CHECK(scheduler::overlap_us(steps[0].graph, steps[0].timeline) == scheduler::overlap_us(graph, kTimes));
  CHECK(scheduler::exposed_stage_us(steps[0].graph, steps[0].timeline) == scheduler::exposed_stage_us(graph, kTimes));
  const ordered_json json = step_json(steps[0]);
  CHECK(json["total_ms"].get<double>() == Approx(0.009));
  CHECK(json["exposed_comm_ms"].get<double>() == Approx(0.003));
  CHECK(json["exposed_stage_ms"] == ordered_json{{"dispatch", 0.003}});
  CHECK(json["streams"] == ordered_json::array({"compute", "intra", "intra+inter"}));
  REQUIRE(json["tasks"].size() == 3);
  CHECK(json["tasks"][0] == ordered_json::array({0, 0, 0, 0.0, 6.0, 3, 1, -1}));
  CHECK(json["tasks"][2] == ordered_json::array({2, 0, 1, 7.0, 2.0, 3, 1, 2}));
  CHECK(json["kinds"][0] == ordered_json{{"label", "expert(forward) up"}, {"stage", "expert"}, {"phase", "forward"}});
  CHECK(json["overlap"]["busy_ms"]["intra"].get<double>() == Approx(0.005));
  CHECK(json["overlap"]["pairs"][0]["ms"].get<double>() == Approx(0.002));
  CHECK(json["overlap"]["pairs"][0]["share"].get<double>() == Approx(0.4));
  CHECK(json["overlap"]["pairs"][1]["share"].get<double>() == 0.0);
  test::check_error(ErrorCode::kInvalidArgument, "no trace", [] { (void)read_trace("{}", "t"); });
}

TEST_CASE("Tasks of one stream that overlap lie on lanes of their own, and a huge step loses its shortest tasks",
          "[report]") {
  StepView step{"measured", small_step(), {{0.0, 1.0, 3.0}, {6.0, 5.0, 5.5}, 6.0}, {"a", "b", "c"}};
  for (auto& task : step.graph.tasks) task.resources = {Resource::kCompute};
  const ordered_json json = step_json(step);
  CHECK(json["tasks"][0][1] == 0);
  CHECK(json["tasks"][1][1] == 1);
  CHECK(json["tasks"][2][1] == 2);
  const ordered_json fewer = step_json(step, 2);
  CHECK(fewer["left_out"] == 1);
  REQUIRE(fewer["tasks"].size() == 2);
  CHECK(fewer["kinds"].size() == 2);
  CHECK(fewer["kinds"][1]["label"] == "b");
}

TEST_CASE("Bytes of many ranks are added up by neighbours", "[report]") {
  ordered_json traffic{
      {"steps", 2},       {"node_of_rank", {0, 0, 1}}, {"sent_bytes", {{0, 1, 2}, {4, 0, 8}, {16, 32, 0}}},
      {"intra_bytes", 5}, {"inter_bytes", 58},         {"by_collective", {{"all_to_all", 63}}}};
  const ordered_json all = traffic_json(traffic, "t");
  CHECK(all["group_ranks"] == 1);
  CHECK(all["nodes"] == 2);
  CHECK(all["sent_bytes"] == traffic["sent_bytes"]);
  const ordered_json pairs = traffic_json(traffic, "t", 2);
  CHECK(pairs["group_ranks"] == 2);
  CHECK(pairs["sent_bytes"] == ordered_json::array({{5, 10}, {48, 0}}));
  traffic["sent_bytes"][1] = {4};
  test::check_error(ErrorCode::kInvalidArgument, "runs/a/traffic.json is not",
                    [&] { (void)traffic_json(traffic, "runs/a/traffic.json"); });
}

TEST_CASE("The page of the longest run and the largest step stays under 2 MiB", "[report]") {
  MetricsTable table;
  for (int i = 0; i < 200000; ++i) table.step.push_back(800000 + i);
  for (int c = 0; c < 17; ++c) table.column[str("a_column_", c)].assign(table.step.size(), c == 0 ? 0.0 : -1.0 / 3e-7);
  for (std::size_t i = 0; i < table.step.size(); ++i) table.column["loss"].push_back(std::sin(double(i) * 1.7));
  table.router.assign(200, {999999, {128, std::vector<std::int64_t>(256, 123456)}});  // 128 layers of 256 experts
  StepView step{"measured", {}, {}, {}};
  for (int t = 0; t < 100000; ++t) {
    scheduler::Task task;
    task.layer = 127;
    task.micro_batch = 15;
    task.chunk = 3;
    task.resources = {static_cast<Resource>(t % 3)};
    step.graph.tasks.push_back(task);
    step.timeline.start_us.push_back(9e6 + 97.7 * t);
    step.timeline.end_us.push_back(9e6 + 97.7 * t + 90.3);
    step.label.push_back("a task");
  }
  std::size_t bytes = html_page({{"run", {{"name", "none"}}}}).size();
  bytes += curves_json(table).dump().size() + router_json(table.router, {}).dump().size();
  bytes += 2 * step_json(step).dump().size();
  INFO(bytes << " bytes");
  CHECK(bytes < (std::size_t{2} << 20) - 100000);  // the rest is for costs, plan and config
}

TEST_CASE("No text of a run ends the page's data early", "[report]") {
  ordered_json report{{"run", {{"name", "</script><b>"}}}};
  const std::string page = html_page(report);
  CHECK_THAT(page, !Catch::Contains("</script><b>"));
  CHECK_THAT(page, Catch::Contains("<title>&lt;/script>&lt;b> - weft report</title>"));
  CHECK_THAT(page, Catch::Contains("\\u003c/script>\\u003cb>"));
}
