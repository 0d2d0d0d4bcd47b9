// Whole runs on a GPU: the numbers of the CPU, and checkpoints that either reads.
#include <cmath>

#include "comm/factory.h"
#include "parallel/train/run_device.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/training.h"

using namespace weft;
using namespace weft::parallel;

namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double out = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) out = std::max(out, std::abs(a[i] - b[i]) / std::abs(b[i]));
  return out;
}

RunConfig run_of(const std::filesystem::path& folder) {
  RunConfig config = test::tiny_run(folder);
  config.checkpoint.every = 3;
  config.checkpoint.keep = 0;
  config.train.micro_batch = 2;
  return config;
}

}  // namespace

TEST_CASE("Training on a GPU has the CPU's losses, and its own bits again", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const test::TempFolder folder;
  RunConfig config = run_of(folder.path());
  SECTION("one rank") {}
  SECTION("streams, searched plan") {
    config.schedule.executor = ExecutorChoice::kStreams;
    config.schedule.policy = SchedulePolicy::kTutel;
  }
  const auto run = [&](const char* name, Device device) {
    test::run_training(config, {.run_dir = folder.path() / name, .device = device});
  };
  run("cpu", {});
  run("gpu", kGpu);
  run("again", kGpu);
  for (const char* key : {"loss", "grad_norm", "val_loss", "aux_loss", "z_loss"}) {
    INFO(key);
    const std::vector<double> there = test::metric(folder.path() / "gpu", key);
    CHECK(!there.empty());
    CHECK(worst(there, test::metric(folder.path() / "cpu", key)) <= 1e-10);
  }
  CHECK(test::timeless_metrics(folder.path() / "gpu") == test::timeless_metrics(folder.path() / "again"));
}

TEST_CASE("A run on a GPU looks for faster plans by the GPU's times", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const test::TempFolder folder;
  RunConfig config = run_of(folder.path());
  test::run_training(config, {.run_dir = folder.path() / "cpu"});
  config.schedule.replan = 2;
  const auto notes = test::run_training(config, {.run_dir = folder.path() / "gpu", .device = kGpu}).notes;
  CHECK(std::any_of(notes.begin(), notes.end(), [](const std::string& note) { return note.starts_with("replan: "); }));
  CHECK(worst(test::metric(folder.path() / "gpu", "loss"), test::metric(folder.path() / "cpu", "loss")) <= 1e-10);
}

TEST_CASE("A run moves between GPU and CPU by its checkpoints", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const test::TempFolder folder;
  const RunConfig config = run_of(folder.path());
  const auto train = [&](const char* name, Device device, int stop_before) {
    test::run_training(config, {.run_dir = folder.path() / name, .stop_before_step = stop_before, .device = device});
  };
  train("whole", {}, 0);
  const std::vector<double> want = test::metric(folder.path() / "whole", "loss");
  train("there", {}, 4);
  train("there", kGpu, 0);
  CHECK(worst(test::metric(folder.path() / "there", "loss"), want) <= 1e-10);
  train("back", kGpu, 4);
  train("back", {}, 0);
  CHECK(worst(test::metric(folder.path() / "back", "loss"), want) <= 1e-10);
  train("unbroken", kGpu, 0);
  train("stopped", kGpu, 4);
  train("stopped", kGpu, 0);
  CHECK(test::timeless_metrics(folder.path() / "stopped") == test::timeless_metrics(folder.path() / "unbroken"));
}

TEST_CASE("The device of a run follows from the config, and says why", "[train]") {
  comm::run_local_ranks(1, [](comm::Communicator& world) {
    RunConfig config;
    config.parallel.device = DeviceChoice::kCpu;
    CHECK(run_device(config, world) == Device{});
    config.parallel.device = DeviceChoice::kAuto;
    const bool there = is_available(DeviceKind::kCuda);
    CHECK((run_device(config, world).kind == DeviceKind::kCuda) == there);
    config.parallel.device = DeviceChoice::kCuda;
    if (there)
      CHECK(run_device(config, world).kind == DeviceKind::kCuda);
    else
      test::check_error(ErrorCode::kUnavailable, why_unavailable(DeviceKind::kCuda),
                        [&] { (void)run_device(config, world); });
  });
}
