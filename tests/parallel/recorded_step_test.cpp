// Steps that are recorded once and launched as one, against the same steps launched task by task.
#include <utility>
#include <vector>

#include "comm/factory.h"
#include "scheduler/order.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/errors.h"
#include "tests/support/gates.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using scheduler::ExecutorKind;
using test::StepCase;
using test::StepOutcome;

namespace {

/// Whole capacities on one GPU. Learning rate, valid targets, noise and choices change from step to step.
StepCase static_case() {
  StepCase c;
  c.model = test::small_mixtral();
  c.model.moe.capacity_factor = 1.25;
  c.global_batch = 4;
  c.documents = true;
  c.steps = 5;
  c.device = {DeviceKind::kCuda, 0};
  c.executor = ExecutorKind::kRecorded;
  c.shape = {2, 3, 1, scheduler::Recompute::kNone, 1, 1};
  c.shape.padded = true;
  c.before_step = [](int step, StepState& state) { state.optimizer.lr = 1e-2 / step; };
  return c;
}

template <class T>
StepOutcome task_by_task(StepCase c) {
  c.executor = ExecutorKind::kStreams;
  return test::run_steps<T>(c);
}

template <class T>
void check_same_bits(const StepCase& c, int num_recordings = 1) {
  const StepOutcome recorded = test::run_steps<T>(c);
  CHECK(recorded.num_recordings == num_recordings);
  std::string where;
  const double difference = test::max_difference(task_by_task<T>(c), recorded, where);
  INFO("worst: " << where);
  CHECK(difference == 0.0);
}

}  // namespace

TEST_CASE("A recorded step has the bits of its tasks launched one by one", "[gpu][recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = static_case();
  SECTION("capacity") {}
  SECTION("noise on the logits") { test::choose_gate(c.model, "gshard"), c.model.moe.capacity_factor = 1.25; }
  SECTION("a random order, sub-batches, everything again in the backward") {
    c.micro_batch = 4;
    c.shape = {2, 1, 0, scheduler::Recompute::kFull, 2, 1, 0, true};
    c.order_seed = 3;
  }
  SECTION("some again in the backward, whole states") {
    c.shape.recompute = scheduler::Recompute::kSelective;
    c.sharded = false;
  }
  SECTION("expert choice") {
    test::choose_gate(c.model, "expert_choice");
    c.shape.padded = false;
  }
  SECTION("Soft MoE") {
    test::choose_gate(c.model, "soft_moe");
    c.shape.padded = false;
  }
  SECTION("no experts, tied embeddings") {
    c.model = test::small_gpt2_moe();
    c.model.layer_pattern = "DD";
    c.shape.padded = false;
  }
  SECTION("the last step's choices") { c.model.moe.balance_scope = BalanceScope::kGlobalPrevious; }
  SECTION("this step's choices so far") { c.model.moe.balance_scope = BalanceScope::kGlobalRunning; }
  check_same_bits<double>(c);
}

TEST_CASE("A recorded step in BF16 has the bits of its tasks launched one by one", "[gpu][recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  check_same_bits<BF16>(static_case());
}

TEST_CASE("A recorded step has the CPU's figures", "[gpu][recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const StepCase c = static_case();
  StepCase on_cpu = c;
  on_cpu.device = {};
  const StepOutcome want = test::run_steps<double>(on_cpu);
  CHECK(want.num_recordings == 0);
  std::string where;
  const double difference = test::max_difference(want, test::run_steps<double>(c), where);
  INFO("worst: " << where);
  CHECK(difference <= 1e-10);
}

TEST_CASE("What launches have in their arguments is recorded anew when it changes", "[gpu][recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = static_case();
  c.steps = 6;  // the last launches the second recording again
  SECTION("the norm to clip to") {
    c.before_step = [](int step, StepState& state) { state.clip_norm = step < 4 ? 1.0 : 0.1; };
  }
  SECTION("rows of the step") {
    c.before_step = [](int step, StepState& state) { state.num_tokens = step < 4 ? 32.0 : 20.0; };
  }
  SECTION("routing groups of the step") {
    c.before_step = [](int step, StepState& state) { state.num_groups = step < 4 ? 4.0 : 3.0; };
  }
  SECTION("noise") {
    test::choose_gate(c.model, "gshard");
    c.model.moe.capacity_factor = 1.25;
    c.before_step = [](int step, StepState& state) { state.gate_noise = step < 4; };
  }
  SECTION("the seed, which a gate may put into launches") {
    c.before_step = [](int step, StepState& state) { state.seed = step < 4 ? 1 : 2; };
  }
  SECTION("arrays that were not there") {
    c.before_step = [](int step, StepState& state) {
      if (step >= 4)
        for (MicroBatch& batch : state.batches) batch.samples = nullptr;
    };
  }
  check_same_bits<double>(c, 2);
}

TEST_CASE("What changes from step to step is not recorded", "[gpu][recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = static_case();
  c.before_step = [](int step, StepState& state) { state.clip_norm = step % 2 == 0 ? 1.0 : 0.1; };
  check_same_bits<double>(c, 0);
}

TEST_CASE("A step that waits for its host is not recorded", "[gpu][recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = static_case();
  c.shape.padded = false;
  check_same_bits<double>(c, 0);
}

TEST_CASE("Collectives through the host are not recorded", "[gpu][recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = static_case();
  c.world_size = c.ep_size = 2;
  c.micro_batch = 1;
  check_same_bits<double>(c, 0);
}

TEST_CASE("A recorded step that finds wrong contents says so, and the next is recorded anew", "[gpu][recording]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = static_case();
  const Device gpu = c.device;
  const std::vector<std::int32_t> wrong(64, c.model.vocab_size + 5);
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    const Mesh mesh = make_mesh(1, 0, {});
    const MeshComms comms(world, mesh, gpu);
    const ParameterTable table(c.model, mesh);
    ParameterStore<double> store(table, gpu, true);
    initialize_weights(store, c.model, 1);
    StepSpec spec{c.model, mesh, {1, 2, 8, c.model.moe.group_sequences, 1}};
    spec.host_apart = true;
    const scheduler::Shape shape = uniform_shape(c.model.layers, c.shape);
    StepState state;
    state.optimizer.lr = 1e-2;
    state.num_tokens = state.num_valid_tokens = 16;
    BoundStep<double> step(spec, scheduler::sequential_plan(emit_step(spec, shape, DType::kF64), shape),
                           Runtime<double>{&store, &comms, &state}, gpu, ExecutorKind::kRecorded);
    CHECK(step.why_not_recorded() == "");
    std::vector<std::int32_t> good(16), positions, segments;
    for (int i = 0; i < 16; ++i) positions.push_back(i % 8), segments.push_back(i / 8);
    const auto run_with = [&](const std::vector<std::int32_t>& tokens) {
      state.batches = {{tokens.data(), good.data(), positions.data(), segments.data()}};
      step.run();
      return state.sums[0];
    };
    run_with(good);
    const double before = run_with(good);
    CHECK(step.num_recordings() == 1);
    for (int again = 0; again < 2; ++again) {
      test::check_error(ErrorCode::kInvalidArgument, "", [&] { static_cast<void>(run_with(wrong)); });
      CHECK(run_with(good) < before);
    }
    CHECK(step.num_recordings() >= 3);
  });
}
