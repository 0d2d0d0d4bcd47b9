#include "tools/train/replan_files.h"

#include "core/atomic_file.h"
#include "core/error.h"
#include "tests/support/catch.h"
#include "tests/support/errors.h"
#include "tests/support/temp_folder.h"
#include "tools/config/schedule_files.h"

using namespace weft;
using namespace weft::tools;
namespace fs = std::filesystem;

namespace {

/// A look after `step` that leaves `chunks` chunks.
parallel::Replan look(std::int64_t step, bool changes, int chunks) {
  parallel::Replan out;
  out.step = step;
  out.changes = changes;
  out.entry = str("{\"step\":", step, ",\"action\":\"", changes ? "try" : "keep",
                  "\",\"reason\":\"\",\"measured_ms\":2.5,\"predicted_ms\":{\"before\":2.0,\"after\":1.5}}");
  out.cost = nominal_costs();
  out.cost.measured = true;
  out.cost.source = str("up to ", step);
  out.plan.plan.policy = "fsmoe";
  out.plan.plan.shape.layers.resize(1);
  out.plan.plan.shape.layers[0].forward_chunks = chunks;
  return out;
}

std::string source_of(const fs::path& path) { return load_costs(path.string()).source; }
int chunks_of(const fs::path& path) {
  return plan_from_text(read_file(path), path.string()).shape.layers.at(0).forward_chunks;
}
std::vector<std::int64_t> steps_of(const fs::path& run_dir) {
  std::vector<std::int64_t> out;
  for (const auto& look : read_replans(run_dir)) out.push_back(look["step"]);
  return out;
}

}  // namespace

TEST_CASE("A run folder keeps what each change of plan stood on, and the costs in force", "[replan]") {
  const test::TempFolder folder;
  const fs::path& run = folder.path();
  CHECK(read_replans(run).empty());
  start_replan_files(run, 1);
  write_replan_files(run, look(10, true, 4), DeviceKind::kCpu, DType::kF32);
  write_replan_files(run, look(20, false, 4), DeviceKind::kCpu, DType::kF32);
  CHECK(steps_of(run) == std::vector<std::int64_t>{10, 20});
  CHECK(source_of(run / "costs.textproto") == "up to 20");
  CHECK(source_of(run / "replans/step-00000010.costs.textproto") == "up to 10");
  CHECK(chunks_of(run / "replans/step-00000010.plan.textproto") == 4);
  CHECK(chunks_of(run / "plan.textproto") == 4);
  CHECK(!fs::exists(run / "replans/step-00000020.costs.textproto"));
  write_replan_files(run, look(30, true, 2), DeviceKind::kCuda, DType::kBF16);
  CHECK(chunks_of(run / "plan.textproto") == 2);
  parallel::RunConfig config;  // of a run that plans with these costs
  config.schedule.profile = (run / "costs.textproto").string();
  CHECK_THAT(profile_warning(config, 1, 1, DeviceKind::kCuda), Catch::Contains("on GPUs, in BF16; here"));
  config.train.dtype = DType::kBF16;
  CHECK(profile_warning(config, 1, 1, DeviceKind::kCuda).empty());

  start_replan_files(run, 21);  // resumed from the checkpoint of step 20
  CHECK(steps_of(run) == std::vector<std::int64_t>{10, 20});
  CHECK(!fs::exists(run / "costs.textproto"));
  CHECK(fs::exists(run / "replans/step-00000010.plan.textproto"));
  CHECK(!fs::exists(run / "replans/step-00000030.plan.textproto"));
  CHECK(!fs::exists(run / "replans/step-00000030.costs.textproto"));
  start_replan_files(run, 1);
  CHECK(!fs::exists(run / "replans.jsonl"));
  CHECK(!fs::exists(run / "replans"));
}

TEST_CASE("A damaged log of replans is refused by line, and a new start drops the line", "[replan]") {
  const test::TempFolder folder;
  write_replan_files(folder.path(), look(10, false, 1), DeviceKind::kCpu, DType::kF32);
  const std::string sound = read_file(folder / "replans.jsonl");
  for (const std::string bad : {"{\"step\":20}", "[]", "{"}) {
    write_file(folder / "replans.jsonl", sound + bad + "\n");
    test::check_error(ErrorCode::kInvalidArgument, "replans.jsonl:2", [&] { (void)read_replans(folder.path()); });
  }
  start_replan_files(folder.path(), 11);
  CHECK(read_file(folder / "replans.jsonl") == sound);
}
