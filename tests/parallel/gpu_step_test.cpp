// The training step on a GPU against the same step on the CPU: losses, gradient norms, balance losses and the weights
// after some updates. They differ in the order of sums alone.
#include "comm/for_device.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/gates.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using test::StepCase;
using test::StepOutcome;

namespace {

constexpr Device kGpu{DeviceKind::kCuda, 0};

template <class T>
StepOutcome on_gpu(StepCase c) {
  c.device = kGpu;
  return test::run_steps<T>(c);
}

/// Runs `c` on both; in f64 the figures are equal to 1e-10.
void check(const StepCase& c) {
  std::string where;
  const double difference = test::max_difference(test::run_steps<double>(c), on_gpu<double>(c), where);
  INFO("worst: " << where);
  CHECK(difference <= 1e-10);
}

StepCase small_case() {
  StepCase c;
  c.model = test::small_mixtral();
  c.global_batch = 4;
  c.documents = true;
  c.steps = 3;
  return c;
}

}  // namespace

TEST_CASE("A step on a GPU: either model, dropless and with capacity", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  SECTION("dropless") {}
  SECTION("capacity") { c.model.moe.capacity_factor = 1.0; }
  SECTION("capacity, padded") {
    c.model.moe.capacity_factor = 1.0;
    c.shape = {2, 3, 1, scheduler::Recompute::kNone, 1, 1};
    c.shape.padded = true;
  }
  SECTION("GPT-2, tied embeddings") { c.model = test::small_gpt2_moe(); }
  SECTION("weights that are not renormalised") { c.model.moe.renormalize = false; }
  SECTION("no clipping, no losses of the router") {
    c.clip_norm = 0.0;
    c.model.moe.balance_loss_coef = c.model.moe.z_loss_coef = 0.0;
  }
  check(c);
}

TEST_CASE("A step on a GPU: every cut", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  c.micro_batch = 4;
  c.model.moe.capacity_factor = GENERATE(0.0, 1.5);
  SECTION("chunks") { c.shape = {2, 3, 0, scheduler::Recompute::kNone, 1, 1}; }
  SECTION("chunks, and dW apart") { c.shape = {3, 2, 2, scheduler::Recompute::kNone, 1, 1}; }
  SECTION("sub-batches") { c.shape = {1, 2, 1, scheduler::Recompute::kNone, 2, 1}; }
  SECTION("everything again in the backward") { c.shape = {2, 1, 0, scheduler::Recompute::kFull, 2, 1}; }
  SECTION("some again in the backward, several streams") {
    c.shape = {2, 2, 1, scheduler::Recompute::kSelective, 1, 1};
    c.executor = scheduler::ExecutorKind::kStreams;
    c.order_seed = 5;
  }
  check(c);
}

TEST_CASE("A step on a GPU: layers that are computed again take over the counts of their rows", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  c.steps = 2;
  c.global_batch = 8;
  c.micro_batch = 2;
  SECTION("one rank") {}
  SECTION("EP 4") { c.world_size = c.ep_size = 4; }
  SECTION("EP 2 x ESP 2, capacity, several streams") {
    c.world_size = 4;
    c.ep_size = c.esp_size = 2;
    c.model.moe.capacity_factor = 1.0;
    c.executor = scheduler::ExecutorKind::kStreams;
  }
  SECTION("through leaders, which know the counts between all pairs") {
    c.world_size = c.ep_size = 4;
    c.ranks_per_node = 2;
    c.dispatcher = DispatcherKind::kHierarchical1d;
  }
  SECTION("in any order of tasks") { c.order_seed = 5; }
  SECTION("gates whose choices need noise, and sequences that are shared") {
    test::choose_gate(c.model, "gshard");
    c.world_size = c.sequence_heads = c.ep_size = 2;
  }
  const StepOutcome kept = test::run_steps<double>(c);
  c.shape = {2, 3, 1, scheduler::Recompute::kFull, 2, 1};
  std::string where;
  for (const Device device : {Device{}, kGpu}) {
    c.device = device;
    const double difference = test::max_difference(kept, test::run_steps<double>(c), where);
    INFO((device == kGpu ? "GPU" : "CPU") << ", worst: " << where);
    CHECK(difference <= 1e-10);
  }
}

TEST_CASE("A step on a GPU: every scope and form of the balance loss", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  c.model.moe.balance_loss_coef = 0.1;
  SECTION("the last step's choices") { c.model.moe.balance_scope = BalanceScope::kGlobalPrevious; }
  SECTION("this step's choices so far") { c.model.moe.balance_scope = BalanceScope::kGlobalRunning; }
  SECTION("pooled over layers") { c.model.moe.balance_form = BalanceForm::kHuggingFace; }
  check(c);
}

TEST_CASE("A step on a GPU: every gate", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  for (const char* gate : {"softmax_top_k", "gshard", "sigmoid", "xmoe", "expert_choice", "soft_moe"}) {
    INFO(gate);
    StepCase c = small_case();
    test::choose_gate(c.model, gate);
    c.shape = {2, 3, 1, scheduler::Recompute::kNone, 1, 1};
    check(c);
  }
}

TEST_CASE("A step on a GPU: ranks that share it or have one each, every dispatcher", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  c.own_gpus = GENERATE(false, true);
  if (c.own_gpus && (!comm::why_no_nccl().empty() || num_devices(DeviceKind::kCuda) < 4))
    WEFT_SKIP("no NCCL, or fewer than 4 GPUs");
  INFO((c.own_gpus ? "a GPU each" : "one GPU"));
  c.micro_batch = 1;
  c.steps = 2;
  c.world_size = 4;
  c.shape = {2, 3, 1, scheduler::Recompute::kNone, 1, 2};
  c.executor = scheduler::ExecutorKind::kStreams;
  SECTION("EP 4") { c.ep_size = 4; }
  SECTION("EP 2, capacity, whole states") {
    c.ep_size = 2;
    c.sharded = false;
    c.model.moe.capacity_factor = 1.0;
  }
  SECTION("EP 2 x ESP 2") { c.ep_size = c.esp_size = 2; }
  SECTION("through leaders") {
    c.ep_size = 4;
    c.ranks_per_node = 2;
    c.dispatcher = DispatcherKind::kHierarchical1d;
  }
  SECTION("inside nodes, then between them, one stream") {
    c.ep_size = 4;
    c.ranks_per_node = 2;
    c.dispatcher = DispatcherKind::kHierarchical2d;
    c.executor = scheduler::ExecutorKind::kInline;
  }
  SECTION("this step's choices so far") {
    c.ep_size = 2;
    c.model.moe.balance_scope = BalanceScope::kGlobalRunning;
  }
  SECTION("sequences shared by heads and ring") {
    c.sequence_heads = c.sequence_ring = 2;
    c.ep_size = 2;
    c.model.moe.balance_scope = BalanceScope::kGlobalPrevious;
  }
  check(c);
}

TEST_CASE("A step on a GPU: every gate routes groups that ranks share as a whole", "[gpu][sequence]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  int runs = 0;
  for (const char* gate : {"softmax_top_k", "gshard", "sigmoid", "xmoe", "expert_choice", "soft_moe"})
    for (const double capacity : {0.0, 0.75})
      for (const int ranks : {2, 4}) {
        StepCase c = small_case();
        c.sequence_length = 16;
        c.global_batch = c.micro_batch = 2;
        c.steps = 2;
        test::choose_gate(c.model, gate);
        MoeConfig& moe = c.model.moe;
        moe.balance_loss_coef = 0.1;
        moe.capacity_factor = capacity;
        moe.group_sequences = 1 + ++runs % 2;
        moe.balance_scope = runs % 3 == 0 ? BalanceScope::kGlobalPrevious : BalanceScope::kRoutingGroup;
        const StepOutcome reference = test::run_steps<double>(c);
        const bool by_ring = runs / 2 % 2 == 0;
        c.sequence_heads = by_ring ? 1 : 2;
        c.sequence_ring = (by_ring ? 2 : 1) * (ranks / 2);
        c.world_size = ranks;
        c.ep_size = runs % 4 == 0 ? 1 : 2;
        c.shape = {1 + runs % 3, 1 + runs % 2, runs % 2, static_cast<scheduler::Recompute>(runs % 3), 1, 1};
        if (moe.group_sequences == 1) c.shape.sub_batches = 2;
        c.executor = runs % 2 == 0 ? scheduler::ExecutorKind::kStreams : scheduler::ExecutorKind::kInline;
        std::string where;
        const double difference = test::max_difference(reference, on_gpu<double>(c), where);
        INFO(gate << ", heads " << c.sequence_heads << ", ring " << c.sequence_ring << ", " << moe.group_sequences
                  << " sequences a group, capacity " << capacity << ", scope " << static_cast<int>(moe.balance_scope)
                  << "; worst: " << where);
        CHECK(difference <= 1e-10);
      }
}

TEST_CASE("A step on a GPU: shared routing groups of equal runs have equal bits", "[gpu][sequence]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  c.world_size = 4;
  c.sequence_heads = c.sequence_ring = 2;
  c.ep_size = 2;
  c.steps = 2;
  c.executor = scheduler::ExecutorKind::kStreams;
  c.model.moe.capacity_factor = 0.75;
  for (const char* gate : {"softmax_top_k", "expert_choice", "soft_moe"}) {
    test::choose_gate(c.model, gate);
    std::string where;
    CHECK(test::max_difference(on_gpu<float>(c), on_gpu<float>(c), where) == 0.0);
  }
}

TEST_CASE("A step on a GPU: f32 within rounding, and the same bits again", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  c.steps = 2;
  c.executor = scheduler::ExecutorKind::kStreams;
  std::string where;
  const StepOutcome first = on_gpu<float>(c), again = on_gpu<float>(c);
  CHECK(test::max_difference(first, again, where) == 0.0);
  const double difference = test::max_difference(test::run_steps<float>(c), first, where);
  INFO("worst: " << where);
  CHECK(difference <= 2e-4);
  const StepOutcome exact = on_gpu<double>(c);
  CHECK(test::max_difference(exact, on_gpu<double>(c), where) == 0.0);
}

TEST_CASE("A step on a GPU leaves weights alone when its loss is not finite", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  StepCase c = small_case();
  c.steps = 1;
  c.model.moe.z_loss_coef = std::numeric_limits<double>::infinity();  // reaches the gradients, not the loss
  const auto weights = [&](double lr, Device device) {
    StepCase run = c;
    run.lr = lr;
    run.device = device;
    return test::run_steps<double>(run);
  };
  StepCase fine = c;
  fine.model.moe.z_loss_coef = 0.0;
  fine.lr = 0.0;
  fine.clip_norm = 0.0;
  const StepOutcome after = weights(c.lr, kGpu);
  CHECK(std::isfinite(after.steps[0].loss));
  CHECK(!(after.steps[0].gradient_norm < 1e300));
  CHECK(after.weights == test::run_steps<double>(fine).weights);
  fine.lr = c.lr;
  CHECK(after.weights != on_gpu<double>(fine).weights);
}

TEST_CASE("A step on a GPU must let its host wait for counts", "[gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const ModelConfig model = test::small_mixtral();
  const StepSpec spec{model, make_mesh(1, 0, {}), {1, 1, 8, 1}};
  scheduler::Plan plan;
  plan.shape = uniform_shape(model.layers, {});
  StepState state;
  CHECK_THROWS_WITH((BoundStep<double>(spec, plan, Runtime<double>{nullptr, nullptr, &state}, kGpu)),
                    Catch::Matchers::Contains("host is not apart"));
}
