// Any layout gives the losses, norms, balance losses and weights of the one-rank run: in f64 to 1e-10.
#include <tuple>

#include "tests/support/catch.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using test::StepCase;
using test::StepOutcome;

namespace {

constexpr double kTolerance = 1e-10;

void check_same(const StepOutcome& reference, const StepCase& c) {
  std::string where;
  const StepOutcome outcome = test::run_steps<double>(c);
  const double difference = test::max_difference(reference, outcome, where);
  INFO("world " << c.world_size << ", EP " << c.ep_size << ", ESP " << c.esp_size << ", ZeRO " << c.sharded
                << ", micro-batch " << c.micro_batch << ", chunks " << c.shape.forward_chunks << "/"
                << c.shape.backward_chunks << ", deferred dW " << c.shape.weight_grad_pieces << ", recompute "
                << to_string(c.shape.recompute) << ", sub-batches " << c.shape.sub_batches << ", slices "
                << c.shape.gradient_slices << "; worst: " << where);
  CHECK(difference <= kTolerance);
}

}  // namespace

TEST_CASE("Every world, EP, ZeRO mode and micro-batch trains the same model", "[layout]") {
  StepCase one;
  one.model = GENERATE(test::small_mixtral(), test::small_gpt2_moe());
  const StepOutcome reference = test::run_steps<double>(one);
  for (const int world : {1, 2, 4})
    for (int ep = 1; ep <= world; ep *= 2)
      for (const bool sharded : {false, true})
        for (const int micro_batch : {1, 2}) {
          StepCase c = one;
          c.world_size = world;
          c.ep_size = ep;
          c.sharded = sharded;
          c.micro_batch = micro_batch;
          check_same(reference, c);
        }
}

TEST_CASE("Chunks, deferred dW, recompute, sub-batches and slices change no result", "[layout]") {
  StepCase one;
  one.model = GENERATE(test::small_mixtral(), test::small_gpt2_moe());
  const StepOutcome reference = test::run_steps<double>(one);
  for (const int world : {1, 2})
    for (const auto recompute :
         {scheduler::Recompute::kNone, scheduler::Recompute::kSelective, scheduler::Recompute::kFull})
      for (const auto& [forward, backward] : {std::pair{3, 3}, {1, 3}, {3, 1}, {2, 5}, {16, 1}}) {
        StepCase c = one;
        c.world_size = c.ep_size = world;
        c.shape = {forward, backward, backward == 3 ? 2 : backward == 5 ? 5 : 0, recompute, 1 + forward % 2, backward};
        check_same(reference, c);
      }
}

TEST_CASE("Experts cut over ESP ranks train the same model", "[layout][esp]") {
  StepCase one;
  one.model = GENERATE(test::small_mixtral(), test::small_gpt2_moe());
  one.model.moe.capacity_factor = GENERATE(0.0, 0.75);
  one.micro_batch = 1;
  const StepOutcome reference = test::run_steps<double>(one);
  int runs = 0;
  for (const int world : {2, 4, 8})
    for (const int esp : {2, 4})
      for (int ep = 1; ep <= 4 && ep * esp <= world; ep *= 2) {
        StepCase c = one;
        c.world_size = world;
        c.ep_size = ep;
        c.esp_size = esp;
        c.sharded = ++runs % 2 == 0;
        const auto recompute = static_cast<scheduler::Recompute>(runs % 3);
        c.shape = {1 + runs % 3, 1 + runs % 2, runs % 2, recompute, 1, 1 + runs % 2};
        check_same(reference, c);
      }
}

TEST_CASE("Capacity, balance scopes, groups and gate options keep to the one-rank run", "[layout]") {
  StepCase one;
  one.model = test::small_mixtral();
  one.steps = 4;
  MoeConfig& moe = one.model.moe;
  SECTION("capacity with drops") { moe.capacity_factor = GENERATE(0.5, 1.0); }
  SECTION("groups of two sequences, capacity") {
    moe.group_sequences = 2;
    moe.capacity_factor = 0.75;
  }
  SECTION("no renormalisation") { moe.renormalize = false; }
  SECTION("balance over the previous step") { moe.balance_scope = BalanceScope::kGlobalPrevious; }
  SECTION("pooled balance loss") {
    moe.balance_form = BalanceForm::kHuggingFace;
    moe.balance_loss_coef = 0.5;
  }
  SECTION("top-1 and top-all") { moe.top_k = GENERATE(1, 4); }
  const StepOutcome reference = test::run_steps<double>(one);
  if (moe.capacity_factor > 0) CHECK(reference.steps[0].drop_fraction > 0.0);
  for (const int world : {2, 4}) {
    StepCase c = one;
    c.world_size = c.ep_size = world;
    c.shape.forward_chunks = 3;
    check_same(reference, c);
  }
}

TEST_CASE("The running balance scope counts micro-batches in their order, in any order of tasks", "[layout][streams]") {
  StepCase c;
  c.model = test::small_mixtral();
  c.model.moe.balance_scope = BalanceScope::kGlobalRunning;
  c.world_size = 2;
  c.ep_size = 2;
  c.micro_batch = 1;
  const StepOutcome reference = test::run_steps<double>(c);
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    c.order_seed = seed;
    std::string where;
    CHECK(test::max_difference(reference, test::run_steps<double>(c), where) == 0.0);
  }
}

TEST_CASE("The running balance scope sums over ranks: invariant to EP at equal micro-batches", "[layout]") {
  StepCase two;
  two.model = test::small_mixtral();
  two.model.moe.balance_scope = BalanceScope::kGlobalRunning;
  two.world_size = 2;
  const StepOutcome reference = test::run_steps<double>(two);
  two.ep_size = 2;
  check_same(reference, two);
}

TEST_CASE("The same run twice gives the same bits", "[layout]") {
  StepCase c;
  c.model = test::small_mixtral();
  c.world_size = 4;
  c.ep_size = 2;
  c.shape.forward_chunks = 2;
  std::string where;
  CHECK(test::max_difference(test::run_steps<float>(c), test::run_steps<float>(c), where) == 0.0);
}

TEST_CASE("Any order, on one thread or on streams, gives the bits of the sequential step", "[layout][streams]") {
  StepCase c;
  c.model = GENERATE(test::small_mixtral(), test::small_gpt2_moe());
  std::tie(c.world_size, c.ep_size, c.esp_size) = GENERATE(table<int, int, int>({{1, 1, 1}, {4, 2, 1}, {4, 2, 2}}));
  c.shape = {3, 2, 2, scheduler::Recompute::kSelective, 1, 2};
  c.steps = 2;
  c.micro_batch = 1;
  const StepOutcome reference = test::run_steps<double>(c);
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    c.order_seed = seed;
    c.executor = seed % 3 == 2 ? scheduler::ExecutorKind::kInline : scheduler::ExecutorKind::kStreams;
    c.host_apart = seed >= 2;
    std::string where;
    const double difference = test::max_difference(reference, test::run_steps<double>(c), where);
    INFO("order " << seed << (c.host_apart ? " with host waits" : "") << ", world " << c.world_size
                  << ", worst: " << where);
    CHECK(difference == 0.0);
  }
}
