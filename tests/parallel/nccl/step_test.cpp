// tests/parallel/nccl/step_test.cpp - training steps of ranks with an emulated GPU each, over the emulated NCCL: the
// figures of one rank on the CPU, in every layout.
#include <vector>

#include "comm/factory.h"
#include "parallel/mesh.h"
#include "tests/support/catch.h"
#include "tests/support/cuda/capture.h"
#include "tests/support/gates.h"
#include "tests/support/nccl/hooks.h"
#include "tests/support/step_harness.h"

namespace weft::test {
namespace {

using parallel::DispatcherKind;
using parallel::MeshComms;
using parallel::MeshOptions;

StepCase over_nccl(int world_size) {
  StepCase c;
  c.model = small_mixtral();
  c.documents = true;
  c.global_batch = 4;
  c.micro_batch = 1;
  c.steps = 2;
  c.world_size = world_size;
  c.device = {DeviceKind::kCuda, 0};
  c.own_gpus = true;
  c.executor = scheduler::ExecutorKind::kStreams;
  c.shape = {2, 3, 1, scheduler::Recompute::kNone, 1, 2};
  return c;
}

StepCase on_one_rank(StepCase c) {
  c.world_size = c.ep_size = c.esp_size = c.sequence_heads = c.sequence_ring = 1;
  c.ranks_per_node = 0;
  c.dispatcher = DispatcherKind::kAllToAll;
  c.device = {};
  c.own_gpus = false;
  c.shape = {};
  c.order_seed = 0;
  c.executor = scheduler::ExecutorKind::kInline;
  return c;
}

/// No misuse was seen, and no communicator is left.
void check_by_the_book() {
  CHECK(emulation::nccl::take_complaints() == std::vector<std::string>{});
  CHECK(emulation::nccl::num_communicators() == 0);
}

TEST_CASE("NCCL: a step in every layout has one rank's figures, and its own bits again", "[nccl]") {
  StepCase c = over_nccl(4);
  SECTION("ZeRO") {}
  SECTION("whole states") { c.sharded = false; }
  SECTION("EP 4, a random order of tasks") {
    c.ep_size = 4;
    c.order_seed = 7;
  }
  SECTION("EP 2 x ESP 2, capacity") {
    c.ep_size = c.esp_size = 2;
    c.model.moe.capacity_factor = 1.0;
  }
  SECTION("through leaders") {
    c.ep_size = 4;
    c.ranks_per_node = 2;
    c.dispatcher = DispatcherKind::kHierarchical1d;
  }
  SECTION("inside nodes, then between them, a random order of tasks") {
    c.ep_size = 4;
    c.ranks_per_node = 2;
    c.dispatcher = DispatcherKind::kHierarchical2d;
    c.order_seed = 11;
  }
  SECTION("sequences shared by heads and ring, EP 2, a random order of tasks") {
    c.sequence_heads = c.sequence_ring = 2;
    c.ep_size = 2;
    c.order_seed = 13;
  }
  SECTION("routing groups shared by heads and ring, capacity") {
    c.sequence_heads = c.sequence_ring = 2;
    c.ep_size = 2;
    c.model.moe.capacity_factor = 0.75;
    c.order_seed = 15;
  }
  SECTION("routing groups shared by a ring, expert choice") {
    c.sequence_ring = 4;
    choose_gate(c.model, "expert_choice");
  }
  SECTION("eight ranks: EP 2 x ESP 2 x EDP 2, sequences shared by heads") {
    c.world_size = 8;
    c.ep_size = c.esp_size = c.sequence_heads = 2;
    c.ranks_per_node = 4;
  }
  std::string where;
  const StepOutcome there = run_steps<double>(c);
  const double difference = max_difference(run_steps<double>(on_one_rank(c)), there, where);
  INFO("worst: " << where);
  CHECK(difference <= 1e-10);
  CHECK(max_difference(there, run_steps<double>(c), where) == 0.0);
  check_by_the_book();
}

TEST_CASE("NCCL: a step in BF16 has the same bits again", "[nccl]") {
  StepCase c = over_nccl(4);
  c.ep_size = c.esp_size = 2;
  std::string where;
  const StepOutcome once = run_steps<BF16>(c);
  CHECK(max_difference(once, run_steps<BF16>(c), where) == 0.0);
  const double difference = max_difference(run_steps<BF16>(on_one_rank(c)), once, where);
  INFO("worst: " << where);
  CHECK(difference <= 0.05);
  check_by_the_book();
}

TEST_CASE("NCCL: a recorded step has the bits, and the traffic, of its tasks launched one by one",
          "[nccl][recording]") {
  StepCase c = over_nccl(4);
  c.steps = 4;
  c.executor = scheduler::ExecutorKind::kRecorded;
  c.model.moe.capacity_factor = 1.25;
  c.shape.padded = true;
  c.before_step = [](int step, parallel::StepState& state) { state.optimizer.lr = 1e-2 / step; };
  SECTION("EP 4") { c.ep_size = 4; }
  SECTION("EP 2, a random order of tasks") {
    c.ep_size = 2;
    c.order_seed = 17;
  }
  SECTION("EP 2 x ESP 2, whole states") {
    c.ep_size = c.esp_size = 2;
    c.sharded = false;
  }
  SECTION("inside nodes, then between them") {
    c.ep_size = 4;
    c.ranks_per_node = 2;
    c.dispatcher = DispatcherKind::kHierarchical2d;
  }
  SECTION("this step's choices so far") {
    c.ep_size = 2;
    c.model.moe.balance_scope = parallel::BalanceScope::kGlobalRunning;
  }
  SECTION("expert choice") {
    choose_gate(c.model, "expert_choice");
    c.shape.padded = false;
    c.ep_size = 2;
  }
  SECTION("Soft MoE") {
    choose_gate(c.model, "soft_moe");
    c.shape.padded = false;
    c.ep_size = 2;
  }
  std::string where;
  const StepOutcome recorded = run_steps<double>(c);
  CHECK(recorded.num_recordings == 1);
  StepCase by_task = c;
  by_task.executor = scheduler::ExecutorKind::kStreams;
  const StepOutcome want = run_steps<double>(by_task);
  const double difference = max_difference(want, recorded, where);
  INFO("worst: " << where);
  CHECK(difference == 0.0);
  CHECK(recorded.sent_bytes == want.sent_bytes);
  StepCase on_cpu = c;
  on_cpu.device = {};
  on_cpu.own_gpus = false;
  CHECK(max_difference(run_steps<double>(on_cpu), recorded, where) <= 1e-10);
  check_by_the_book();
}

TEST_CASE("NCCL: where one rank's driver records nothing, it goes on task by task among ranks that record",
          "[nccl][recording]") {
  StepCase c = over_nccl(2);
  c.steps = 3;
  c.ep_size = 2;
  c.executor = scheduler::ExecutorKind::kRecorded;
  c.model.moe.capacity_factor = 1.25;
  c.shape.padded = true;
  const StepOutcome want = run_steps<double>(c);
  CHECK(want.total_recordings == 2);
  const StepOutcome mixed = [&] {
    const emulation::NoGraphsOn rank_1(1);
    return run_steps<double>(c);
  }();
  CHECK(mixed.total_recordings == 1);
  std::string where;
  const double difference = max_difference(want, mixed, where);
  INFO("worst: " << where);
  CHECK(difference == 0.0);
  CHECK(mixed.sent_bytes == want.sent_bytes);
  for (std::size_t step = 0; step < want.steps.size(); ++step)  // of rows that each rank counts once
    CHECK(mixed.steps[step].rank_imbalance == want.steps[step].rank_imbalance);
  check_by_the_book();
}

TEST_CASE("NCCL: all links are made before the first step", "[nccl]") {
  StepCase c = over_nccl(4);
  c.ep_size = 2;
  c.sequence_heads = 2;
  c.ranks_per_node = 2;
  c.dispatcher = DispatcherKind::kHierarchical2d;
  const int before = emulation::nccl::num_late_connections();
  comm::run_local_ranks(c.world_size, [&](comm::Communicator& world) {
    const MeshOptions options{c.ep_size, 1, c.sequence_heads, 1, c.ranks_per_node};
    const MeshComms comms(world, parallel::make_mesh(c.world_size, world.rank(), options),
                          {DeviceKind::kCuda, world.rank()});
  });
  const int of_mesh = emulation::nccl::num_late_connections() - before;
  CHECK(of_mesh > 0);
  static_cast<void>(run_steps<double>(c));
  CHECK(emulation::nccl::num_late_connections() - before == 2 * of_mesh);
  check_by_the_book();
}

}  // namespace
}  // namespace weft::test
