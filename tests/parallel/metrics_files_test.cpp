#include <chrono>
#include <thread>

#include "core/atomic_file.h"
#include "parallel/train/metrics.h"
#include "parallel/train/trainer.h"
#include "tests/support/catch.h"
#include "tests/support/temp_folder.h"
#include "tests/support/training.h"

using namespace weft;
using namespace weft::parallel;
using Clock = std::chrono::steady_clock;

namespace {

/// The step that run_dir/metrics.prom is of; 0: there is no such file.
std::int64_t prometheus_step(const std::filesystem::path& run_dir) {
  if (!std::filesystem::exists(run_dir / "metrics.prom")) return 0;
  const std::string text = read_file(run_dir / "metrics.prom"), mark = "\nweft_step{run=\"run\"} ";
  const std::size_t at = text.find(mark);
  REQUIRE(at != std::string::npos);
  return std::stoll(text.substr(at + mark.size()));
}

}  // namespace

TEST_CASE("metrics.prom is replaced at most every second, and at the end", "[metrics]") {
  const test::TempFolder folder;
  RunConfig config;
  config.name = "run";
  config.metrics.prometheus = true;
  int changes = 0;
  StepReport report;
  const Clock::time_point start = Clock::now();
  {
    MetricsFiles files(folder.path(), config, -1);
    for (std::int64_t seen = 0; Clock::now() - start < std::chrono::milliseconds(2300);) {
      ++report.step;
      files.write(report, std::nullopt);
      if (const std::int64_t now = prometheus_step(folder.path()); now != seen) {
        CHECK(now == report.step);
        ++changes;
        seen = now;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    CHECK(changes >= 2);
    CHECK(changes <= 1 + (Clock::now() - start) / std::chrono::seconds(1));  // however slow this machine is
    ++report.step;
    files.write(report, std::nullopt);
  }
  CHECK(prometheus_step(folder.path()) == report.step);
}

TEST_CASE("A resumed run keeps metrics of another schema aside", "[metrics]") {
  const test::TempFolder folder;
  const RunConfig config = [&] {
    RunConfig c = test::tiny_run(folder.path());
    c.checkpoint.every = 2;
    return c;
  }();
  const std::filesystem::path run = folder.path() / "run", file = run / "metrics.jsonl";
  const auto go_on = [&](int stop_before) {
    test::run_training(config, {.run_dir = run, .stop_before_step = stop_before});
    std::vector<std::int64_t> steps;
    for (const auto& line : test::metric_lines(run)) steps.push_back(line["step"]);
    return steps;
  };
  CHECK(go_on(3) == std::vector<std::int64_t>{1, 2});
  const std::string now = read_file(file), head = now.substr(0, now.find('\n') + 1);
  const std::string first = "{\"schema\": 0, \"format\": \"weft.metrics\"}\n{\"step\": 1, \"loss\": 9}\n";
  write_file(file, first);
  CHECK(go_on(5) == std::vector<std::int64_t>{3, 4});
  CHECK(read_file(file).starts_with(head));
  CHECK(read_file(run / "metrics.schema-0.jsonl") == first);
  const std::string second = "{\"schema\": 0}\n{\"step\": 4}\n";  // the name is taken
  write_file(file, second);
  CHECK(go_on(6) == std::vector<std::int64_t>{5});
  CHECK(read_file(run / "metrics.schema-0.jsonl") == first);
  CHECK(read_file(run / "metrics.schema-0.2.jsonl") == second);
  const std::string third = "{\"step\": 5}\n";  // nor is there a schema
  write_file(file, third);
  CHECK(go_on(0) == std::vector<std::int64_t>{6});
  CHECK(read_file(run / "metrics.no-schema.jsonl") == third);
}
