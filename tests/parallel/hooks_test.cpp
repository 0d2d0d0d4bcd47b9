// The six hooks of a MoE layer: once per chunk and direction, on that chunk's rows, and free when absent.
#include <array>
#include <atomic>

#include "tests/support/catch.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using test::StepCase;

namespace {

StepCase hooked_case() {
  StepCase c;
  c.model = test::small_mixtral();
  c.model.moe.allow_noncausal = true;
  c.model.moe.z_loss_coef = 0.0;
  c.world_size = 4;
  c.ep_size = 2;
  c.esp_size = 2;
  c.micro_batch = 1;
  c.steps = 2;
  c.shape.forward_chunks = 3;
  c.shape.backward_chunks = 2;
  return c;
}

constexpr std::array kPoints{HookPoint::kBeforeMoeStart, HookPoint::kBeforeDispatch, HookPoint::kAfterDispatch,
                             HookPoint::kBeforeCombine,  HookPoint::kAfterCombine,   HookPoint::kBeforeMoeEnd};

}  // namespace

TEST_CASE("Hooks run for every chunk of either direction, and only where they are", "[hooks]") {
  StepCase c = hooked_case();
  c.model.moe.gate = GENERATE(as<std::string>{}, "softmax_top_k", "expert_choice");
  const bool tokens = c.model.moe.gate == "softmax_top_k";
  const test::StepOutcome plain = test::run_steps<double>(c);
  const HookPoint point = kPoints[static_cast<std::size_t>(GENERATE(range(0, kNumHookPoints)))];
  std::atomic<int> forward = 0, backward = 0;
  std::atomic<bool> wrong = false;
  MoeHooks<double> hooks;
  hooks[point] = [&](HookCall<double>& call) {
    if (call.point != point || call.rows.cols != c.model.model_dim || call.chunk >= (call.gradient ? 2 : 3))
      wrong = true;
    (call.gradient ? backward : forward) += 1;
  };
  c.hooks = &hooks;
  const test::StepOutcome hooked = test::run_steps<double>(c);
  INFO(to_string(point));
  CHECK(!wrong);
  const bool end = point == HookPoint::kBeforeMoeStart || point == HookPoint::kBeforeMoeEnd;
  const int passes = 4 * 2 * 2 * 2;  // ranks, micro-batches, layers, steps
  CHECK(forward == passes * (end && !tokens ? 1 : 3));
  CHECK(backward == passes * (end && !tokens ? 1 : 2));
  CHECK(hooked.num_tasks - plain.num_tasks == (forward + backward) / 4 / 2);
  std::string where;
  CHECK(test::max_difference(plain, hooked, where) == 0.0);  // they only looked
}

TEST_CASE("A hook changes the rows that travel on: halved before dispatch, doubled behind it", "[hooks]") {
  StepCase c = hooked_case();
  const test::StepOutcome plain = test::run_steps<double>(c);
  MoeHooks<double> hooks;
  const auto scale = [](double factor) {
    return [factor](HookCall<double>& call) {
      for (std::int64_t i = 0; i < call.rows.rows * call.rows.cols; ++i) call.rows.data[i] *= factor;
    };
  };
  hooks[HookPoint::kBeforeDispatch] = scale(0.5);
  c.hooks = &hooks;
  std::string where;
  CHECK(test::max_difference(plain, test::run_steps<double>(c), where) > 1e-6);
  hooks[HookPoint::kAfterDispatch] = scale(2.0);
  hooks[HookPoint::kBeforeCombine] = scale(4.0);
  hooks[HookPoint::kAfterCombine] = scale(0.25);
  CHECK(test::max_difference(plain, test::run_steps<double>(c), where) == 0.0);  // powers of two: exact
}
