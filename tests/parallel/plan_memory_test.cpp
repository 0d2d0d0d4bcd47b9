// The memory limit of a plan holds for every rank, and all ranks refuse together.
#include "core/error.h"
#include "parallel/train/run_setup.h"
#include "tests/support/catch.h"
#include "tests/support/ranks.h"
#include "tests/support/step_harness.h"
#include "tests/support/training.h"
#include "tools/config/schedule_files.h"

using namespace weft;
using namespace weft::parallel;

TEST_CASE("The fullest rank's memory decides, on every rank", "[plan]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.parallel.expert = 2;
  config.schedule.memory_limit_mib = 1.0;
  const std::int64_t limit = 1024 * 1024;
  test::check_on_ranks(3, [&](comm::Communicator& world, test::Findings& findings) {
    for (const std::int64_t excess : {0, 1}) {
      RunPlan run;  // ranks 0 and 2 would fit
      run.memory.bytes[0] = world.rank() == 1 ? limit + excess : 1000 + world.rank();
      const PeakMemory peak = peak_memory(world, run);
      findings.expect(peak.bytes == limit + excess && peak.rank == 1, str("peak ", peak.bytes, " on ", peak.rank));
      std::string message;
      try {
        require_memory(config, peak, run.plan);
      } catch (const Error& e) {
        message = e.message();
      }
      findings.expect(run.plan.peak_memory_bytes == limit + excess && run.plan.memory_limit_bytes == limit, "stated");
      findings.expect(message.empty() == (excess == 0), "refused: " + message);
      if (excess != 0)
        findings.expect(message.find(str(limit + 1, " bytes on rank 1, more than the ", limit)) != std::string::npos,
                        message);
    }
  });
}

TEST_CASE("Without a job, the peak is the largest over all ranks", "[plan]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.parallel.expert = 2;
  const scheduler::CostModel cost = tools::nominal_costs();
  const Mesh mesh = make_mesh(4, 0, mesh_options(config, 4));
  const scheduler::Plan plan = make_plan(config, mesh, cost);
  PeakMemory expected;
  for (int rank = 0; rank < 4; ++rank) {
    const std::int64_t bytes = plan_run(config, 4, rank, 4, cost).memory.total();
    if (bytes > expected.bytes) expected = {bytes, rank};
  }
  const PeakMemory peak = peak_memory(config, mesh, cost.machine, plan);
  CHECK(peak.bytes == expected.bytes);
  CHECK(peak.rank == expected.rank);
}

TEST_CASE("Capacities are padded where that is faster by the costs, or as the config says", "[plan]") {
  RunConfig config;
  config.model = test::small_mixtral();
  config.model.moe.capacity_factor = 1.5;
  config.parallel.expert = 4;
  config.train.global_batch = 8;
  config.train.micro_batch = 1;
  config.train.sequence_length = 8;
  config.schedule.policy = SchedulePolicy::kFsMoe;
  const Mesh mesh = make_mesh(4, 0, mesh_options(config, 2));
  scheduler::CostModel cost;
  cost.machine.host_apart = true;
  const auto padded = [&] { return make_plan(config, mesh, cost).shape.padded; };
  const auto price_of_bytes = [&](double beta) {
    for (int kind = 1; kind < scheduler::kNumWorkKinds; ++kind)
      cost.intra[static_cast<std::size_t>(kind)] = cost.inter[static_cast<std::size_t>(kind)] = {1.0, beta};
    cost.inter[static_cast<std::size_t>(scheduler::WorkKind::kAllToAll)].alpha_us = 50.0;
  };
  price_of_bytes(1e-9);  // start-ups decide
  CHECK(padded());
  config.schedule.pad_capacity = CapacityPadding::kNever;
  CHECK_FALSE(padded());
  price_of_bytes(1e-1);  // bytes and FLOPs decide
  config.schedule.pad_capacity = CapacityPadding::kAuto;
  CHECK_FALSE(padded());
  config.schedule.pad_capacity = CapacityPadding::kAlways;
  CHECK(padded());
  config.schedule.policy = SchedulePolicy::kManual;
  CHECK(padded());
  CHECK(validate(config, 4).empty());
  config.model.moe.capacity_factor = 0.0;
  const std::vector<std::string> problems = validate(config, 4);
  REQUIRE(problems.size() == 1);
  CHECK(problems.front().find("schedule.pad_capacity") == 0);
  config.model.moe.capacity_factor = 1.5;
  config.model.layer_pattern = "D";  // nothing to pad
  CHECK(validate(config, 4).size() == 1);
}
