// Layouts, shapes, orders and executors drawn at random: every one trains the model of the one-rank run, f64, 1e-10.
#include <array>
#include <string>

#include "core/error.h"
#include "parallel/step/moe_gate_emission.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/gates.h"
#include "tests/support/generators.h"
#include "tests/support/skip.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using test::Random;
using test::StepCase;
using test::StepOutcome;

namespace {

/// A power of two that divides n.
int divisor(Random& random, int n) {
  int d = 1;
  while (n % 2 == 0 && random.below(2) == 0) n /= 2, d *= 2;
  return d;
}

/// A hierarchical dispatcher wants an expert group that lies evenly on its nodes.
bool fits(const StepCase& c) {
  const int group = c.ep_size * c.esp_size, node = c.ranks_per_node;
  return node % group == 0 || (node % c.esp_size == 0 && group % node == 0) || c.esp_size % node == 0;
}

/// How the work of `one` is laid out and ordered; what it computes stays.
StepCase draw(const StepCase& one, Random& random) {
  StepCase c = one;
  c.world_size = static_cast<int>(random.pick({1, 2, 4, 4, 8}));
  c.sequence_heads = divisor(random, std::min(c.world_size, c.model.heads));
  c.sequence_ring = divisor(random, std::min(c.world_size / c.sequence_heads, 4));
  c.ep_size = divisor(random, std::min(c.world_size, c.model.moe.experts));
  c.esp_size = divisor(random, std::min(c.world_size / c.ep_size, 4));
  c.sharded = random.below(2) == 0;
  const int dp = c.world_size / (c.sequence_heads * c.sequence_ring);
  while (c.global_batch % (dp * c.micro_batch) != 0) c.micro_batch /= 2;
  c.micro_batch = std::max(1, static_cast<int>(random.pick({c.micro_batch, c.micro_batch / 2})));
  c.ranks_per_node = static_cast<int>(random.pick({1, 2, 4, 8}));
  c.dispatcher = static_cast<DispatcherKind>(random.below(3));
  if (!fits(c)) c.dispatcher = DispatcherKind::kAllToAll;
  c.shape.forward_chunks = static_cast<int>(random.pick({1, 2, 3}));
  c.shape.backward_chunks = static_cast<int>(random.pick({1, 2, 3}));
  c.shape.weight_grad_pieces = static_cast<int>(random.pick({0, 1, 2}));
  c.shape.recompute = static_cast<scheduler::Recompute>(random.below(3));
  c.shape.sub_batches = static_cast<int>(random.pick({1, c.micro_batch}));
  c.shape.gradient_slices = static_cast<int>(random.pick({1, 2}));
  c.order_seed = static_cast<std::uint64_t>(random.below(3) == 0 ? 0 : 1 + random.below(1000));
  c.executor = random.below(2) == 0 ? scheduler::ExecutorKind::kInline : scheduler::ExecutorKind::kStreams;
  c.host_apart = random.below(2) == 0;
  StepSpec spec;
  spec.model = c.model;
  spec.geometry.sequence_length = c.sequence_length;
  spec.geometry.sequence_ranks = c.sequence_heads * c.sequence_ring;
  c.shape.padded = random.below(2) == 0 && can_pad(spec);
  return c;
}

std::string describe(const StepCase& c) {
  return str("world ", c.world_size, ", SP ", c.sequence_heads, " x ", c.sequence_ring, ", EP ", c.ep_size, ", ESP ",
             c.esp_size, ", ZeRO ", c.sharded, ", micro-batch ", c.micro_batch, " in ", c.shape.sub_batches, ", ",
             c.ranks_per_node, " ranks a node, dispatcher ", static_cast<int>(c.dispatcher), ", chunks ",
             c.shape.forward_chunks, "/", c.shape.backward_chunks, ", dW ", c.shape.weight_grad_pieces, ", recompute ",
             to_string(c.shape.recompute), ", slices ", c.shape.gradient_slices, ", order ", c.order_seed,
             c.executor == scheduler::ExecutorKind::kStreams ? ", streams" : "", c.host_apart ? ", host waits" : "",
             c.shape.padded ? ", padded" : "");
}

}  // namespace

TEST_CASE("Layouts and plans drawn at random train the model of one rank", "[layout][sequence][streams]") {
  StepCase one;
  one.model = GENERATE(test::small_mixtral(), test::small_gpt2_moe());
  one.model.moe.balance_scope = GENERATE(BalanceScope::kGlobalPrevious, BalanceScope::kRoutingGroup);
  one.documents = GENERATE(false, true);
  one.sequence_length = 32;
  one.steps = 2;
  const StepOutcome reference = test::run_steps<double>(one);
  Random random(one.documents ? 1 : 2);
  for (int i = 0; i < (test::kSanitized ? 6 : 25); ++i) {
    const StepCase c = draw(one, random);
    std::string where;
    const double difference = test::max_difference(reference, test::run_steps<double>(c), where);
    INFO("draw " << i << ": " << describe(c) << "; worst: " << where);
    CHECK(difference <= 1e-10);
  }
}

namespace {

/// Draws layouts for a gate by `seed`, and runs them on `device`.
void check_any_layout(const std::string& gate, Device device, std::uint64_t seed, int draws) {
  StepCase one;
  one.model = test::small_mixtral();
  test::choose_gate(one.model, gate);
  one.model.moe.group_sequences = GENERATE(1, 2);
  one.model.moe.capacity_factor = 0.8;
  one.documents = true;
  one.sequence_length = 32;
  one.steps = 2;
  const StepOutcome reference = test::run_steps<double>(one);
  Random random(seed);
  for (int i = 0; i < draws; ++i) {
    StepCase c = draw(one, random);
    c.device = device;
    if (c.micro_batch % one.model.moe.group_sequences != 0) continue;
    c.shape.sub_batches = std::min(c.shape.sub_batches, c.micro_batch / one.model.moe.group_sequences);
    std::string where;
    const double difference = test::max_difference(reference, test::run_steps<double>(c), where);
    INFO(gate << ", seed " << seed << ", draw " << i << ": " << describe(c) << "; worst: " << where);
    CHECK(difference <= 1e-10);
  }
}

}  // namespace

TEST_CASE("Any gate: layouts and plans drawn at random train the model of one rank",
          "[layout][gate][sequence][streams]") {
  check_any_layout(GENERATE(from_range(test::all_gates())), Device{}, 17, test::kSanitized ? 3 : 12);
}

TEST_CASE("Layouts and plans drawn at random train the model of one rank on a GPU that they share",
          "[layout][gate][sequence][streams][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  constexpr std::array kGates{"softmax_top_k", "gshard", "sigmoid", "xmoe", "expert_choice", "soft_moe"};
  const auto gate = static_cast<std::size_t>(GENERATE(range(0, 6)));
  check_any_layout(kGates[gate], {DeviceKind::kCuda, 0}, 23 + gate, 1);  // others for each gate
}
