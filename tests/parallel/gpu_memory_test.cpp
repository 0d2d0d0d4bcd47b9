// Steps that do not fit a GPU: refused before the first one, with settings that fit.
#include <algorithm>
#include <sstream>

#include "comm/factory.h"
#include "core/gpu_info.h"
#include "parallel/train/device_memory.h"
#include "parallel/train/run_setup.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/environment.h"
#include "tests/support/errors.h"
#include "tests/support/training.h"
#include "tools/config/loader.h"
#include "tools/config/schedule_files.h"

using namespace weft;
using namespace weft::parallel;

namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};

/// `config` with the options of a hint.
RunConfig changed(const RunConfig& config, const std::string& sets) {
  std::vector<std::string> values;
  std::istringstream words(sets.substr(sets.find("--set")));
  for (std::string word; words >> word;)
    if (word != "--set") values.push_back(word);
  return tools::parse_config(tools::to_text(config), "a test", values);
}

RunConfig wide_run(const std::filesystem::path& folder) {
  RunConfig config = test::tiny_run(folder);
  config.train.micro_batch = 4;
  config.train.sequence_length = 128;
  config.train.steps = 2;
  return config;
}

std::int64_t need_of(const RunConfig& config, int ranks) {
  const RunPlan plan = plan_run(config, ranks, 0, ranks, costs_on(kGpu, tools::nominal_costs()));
  return plan.memory.total() + plan.validation_bytes;
}

std::string limit_of(std::int64_t bytes) { return std::to_string(bytes); }

bool is_emulated() { return gpu_info(kGpu).name == "an emulated GPU"; }
std::int64_t used_bytes() { return gpu_info(kGpu).total_bytes - gpu_info(kGpu).free_bytes; }

}  // namespace

TEST_CASE("A smaller step is found by its settings, and needs what it says", "[memory]") {
  const test::TempFolder folder;
  const RunConfig config = wide_run(folder.path());
  const scheduler::CostModel cost = tools::nominal_costs();
  const Mesh mesh = make_mesh(1, 0, mesh_options(config, 1));
  const RunPlan own = plan_run(config, 1, 0, 1, cost);
  const std::int64_t need = own.memory.total() + own.validation_bytes;
  std::int64_t last = need;
  for (const double share : {0.9, 0.7, 0.5}) {
    if (test::kSanitized && share > 0.5) continue;
    const auto limit = static_cast<std::int64_t>(share * static_cast<double>(need));
    const std::optional<SmallerStep> step = find_smaller_step(config, mesh, cost, limit);
    REQUIRE(step);
    INFO(step->sets);
    CHECK(step->bytes <= limit);
    CHECK(step->bytes <= last);
    last = step->bytes;
    const RunPlan plan = plan_run(changed(config, step->sets), 1, 0, 1, cost);
    CHECK(plan.memory.total() + plan.validation_bytes == step->bytes);
  }
  CHECK(!find_smaller_step(config, mesh, cost, own.memory.bytes[0]));  // the parameters alone
}

TEST_CASE("A smaller step is looked for in every micro-batch of whole routing groups", "[memory]") {
  const test::TempFolder folder;
  RunConfig config = wide_run(folder.path());
  config.model.moe.group_sequences = 2;
  config.train.global_batch = config.train.micro_batch = 6;  // 4 does not divide the batch, 3 cuts a group
  const scheduler::CostModel cost = tools::nominal_costs();
  const Mesh mesh = make_mesh(1, 0, mesh_options(config, 1));
  RunConfig smallest = config;
  smallest.train.micro_batch = 2;
  smallest.train.recompute = scheduler::Recompute::kFull;
  const RunPlan plan = plan_run(smallest, 1, 0, 1, cost);
  const auto step = find_smaller_step(config, mesh, cost, plan.memory.total() + plan.validation_bytes + (1 << 16));
  REQUIRE(step);
  INFO(step->sets);
  CHECK(step->sets.find("train.micro_batch=2") != std::string::npos);
}

TEST_CASE("Later plans get what the GPU has left, shared by the ranks on it", "[memory][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const test::TempFolder folder;
  const int ranks = GENERATE(1, 2);
  const RunConfig config = wide_run(folder.path());
  std::vector<double> more(static_cast<std::size_t>(ranks));  // than its plan has, in shares of what is free
  std::vector<std::int64_t> on_cpu(more.size());
  comm::run_local_ranks(ranks, [&](comm::Communicator& world) {
    const RunPlan plan = plan_run(config, ranks, world.rank(), ranks, tools::nominal_costs());
    const auto r = static_cast<std::size_t>(world.rank());
    on_cpu[r] = room_for_plans(world, plan, {});
    more[r] = double(room_for_plans(world, plan, kGpu) - plan.memory.total()) / double(available_bytes(kGpu));
  });
  for (std::size_t r = 0; r < more.size(); ++r) {
    CHECK(on_cpu[r] == 0);  // what is free there is not known
    CHECK(more[r] == Approx((1.0 - kDeviceMemoryMargin) / ranks).epsilon(0.1));
  }
}

TEST_CASE("A step that does not fit the GPU is refused before it runs, with settings that fit", "[memory][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  if (!is_emulated()) WEFT_SKIP("the size of a real GPU is not the test's to choose");
  const int ranks = GENERATE(1, 2);
  INFO(ranks << " ranks");
  const test::TempFolder folder;
  const RunConfig config = wide_run(folder.path());
  const std::int64_t a_rank = need_of(config, ranks) * 9 / 10 + kProductWorkspaceBytes;
  const test::ScopedVariable smaller("WEFT_EMULATION_MEMORY", limit_of(used_bytes() + ranks * a_rank).c_str());
  const auto run = [&](const RunConfig& it, const char* name) {
    return test::run_training(it, {.world_size = ranks, .run_dir = folder.path() / name, .device = kGpu});
  };
  const Error refusal = test::error_of([&] { run(config, "refused"); });
  INFO(refusal.what() << "\n" << refusal.hint());
  CHECK(refusal.code() == ErrorCode::kOutOfMemory);
  for (const char* part : {"parameters ", "gradients ", "optimizer ", "activations ", "validation ", "free"})
    CHECK(refusal.message().find(part) != std::string::npos);
  CHECK((refusal.message().find("for 2 ranks") != std::string::npos) == (ranks == 2));
  REQUIRE(refusal.hint().find("--set ") != std::string::npos);
  CHECK(run(changed(config, refusal.hint()), "fits").outcome == TrainOutcome::kFinished);
}

TEST_CASE("Where nothing fits the GPU, the refusal says so", "[memory][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  if (!is_emulated()) WEFT_SKIP("the size of a real GPU is not the test's to choose");
  const test::TempFolder folder;
  const RunConfig config = test::tiny_run(folder.path());
  const test::ScopedVariable smaller("WEFT_EMULATION_MEMORY", limit_of(used_bytes() + 10'000).c_str());
  const Error refusal =
      test::error_of([&] { test::run_training(config, {.run_dir = folder.path() / "run", .device = kGpu}); });
  INFO(refusal.what() << "\n" << refusal.hint());
  CHECK(refusal.code() == ErrorCode::kOutOfMemory);
  CHECK(refusal.hint().find("no plan that was tried fits") == 0);
}

TEST_CASE("An allocation that fails is named by its class, with settings that fit", "[memory][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  if (!is_emulated()) WEFT_SKIP("a real GPU's allocations do not fail on request");
  const test::TempFolder folder;
  const RunConfig config = wide_run(folder.path());
  const RunPlan plan = plan_run(config, 1, 0, 1, costs_on(kGpu, tools::nominal_costs()));
  const auto fails = [&](std::int64_t largest) {
    const test::ScopedVariable fragmented("WEFT_EMULATION_LARGEST", limit_of(largest).c_str());
    return test::error_of([&] { test::run_training(config, {.run_dir = folder.path() / "run", .device = kGpu}); });
  };
  const std::int64_t weights = plan.memory.bytes[static_cast<int>(scheduler::MemoryClass::kParameters)];
  for (const bool of_store : {true, false}) {
    const Error failure = fails(of_store ? weights - 1 : weights + weights / 10);  // with its padding
    INFO(failure.what() << "\n" << failure.hint());
    CHECK(failure.code() == ErrorCode::kOutOfMemory);
    CHECK((failure.message().find("parameters: no ") == 0) == of_store);
    CHECK((failure.message().find("activations ('") == 0) != of_store);
    CHECK(failure.message().find("the plan was for ") != std::string::npos);
    CHECK(failure.hint().find("--set ") != std::string::npos);
  }
}
