// tests/parallel/mpi/bench_gpu_test.cpp - collectives timed on the CPU, and over memory of a GPU that ranks share.
#include <map>

#include "parallel/train/run_config.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/mpi_world.h"
#include "tests/support/printed.h"
#include "tests/support/skip.h"
#include "tools/bench/bench_collectives.h"
#include "tools/train/process.h"

namespace weft::test {
namespace {

using scheduler::WorkKind;

void check_collectives(DeviceKind kind) {
  check_on_mpi_ranks([kind](comm::Communicator& world, Findings& findings) {
    for (const WorkKind collective :
         {WorkKind::kAllToAll, WorkKind::kAllGather, WorkKind::kReduceScatter, WorkKind::kAllReduce}) {
      tools::BenchCollectiveOptions o;
      o.kind = collective;
      o.device = kind == DeviceKind::kCuda ? parallel::DeviceChoice::kCuda : parallel::DeviceChoice::kCpu;
      o.max_bytes = 4096;
      o.repeats = 2;
      o.compute = kind == DeviceKind::kCpu && collective == WorkKind::kReduceScatter;
      if (world.size() < 2) {
        findings.expect_error(ErrorCode::kInvalidArgument, "moves nothing", [&] { tools::bench_collective(o, true); });
        continue;
      }
      const std::string text = printed([&] { tools::bench_collective(o, true); });
      if (world.rank() != 0) {
        findings.expect(text.empty(), "another rank than 0 printed");
        continue;
      }
      const auto facts = nlohmann::json::parse(text);
      findings.expect(facts["device"] == tools::device_name({kind, 0}), "measured " + facts["device"].dump());
      findings.expect(facts["rows"].size() == 2, "rows: " + facts["rows"].dump());
      for (const auto& row : facts["rows"]) {
        findings.expect(row["us"] > 0.0 && row["bus_mb_per_s"] > 0.0, "a row: " + row.dump());
        findings.expect(row.contains("cores_per_rank") == !o.compute, "whose CPU time: " + row.dump());
        if (o.compute) findings.expect(row["compute_alone_per_us"] > 0.0, "what is computed alone: " + row.dump());
      }
    }
  });
}

}  // namespace

TEST_CASE("Collectives are timed on the CPU", "[bench]") { check_collectives(DeviceKind::kCpu); }

TEST_CASE("Collectives are timed over memory of a GPU", "[bench]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  check_collectives(DeviceKind::kCuda);
}

}  // namespace weft::test
