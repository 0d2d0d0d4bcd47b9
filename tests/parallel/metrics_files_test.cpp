#include <chrono>
#include <thread>

#include "core/atomic_file.h"
#include "parallel/train/metrics.h"
#include "parallel/train/trainer.h"
#include "tests/support/catch.h"
#include "tests/support/temp_folder.h"

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
