// Ranks that share sequences train the model of the one-rank run: in f64 to 1e-10, in every split of a sequence.
#include "core/error.h"
#include "tests/support/catch.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using test::StepCase;
using test::StepOutcome;

namespace {

constexpr double kTolerance = 1e-10;

/// The balance loss over all ranks of the step before: set-wise figures of one routing group do not span ranks yet.
ModelConfig with_global_balance(ModelConfig model) {
  model.moe.balance_scope = BalanceScope::kGlobalPrevious;
  return model;
}

StepCase base_case(const ModelConfig& model) {
  StepCase c;
  c.model = with_global_balance(model);
  c.sequence_length = 32;
  c.global_batch = 4;
  c.steps = 2;
  return c;
}

void check_same(const StepOutcome& reference, const StepCase& c) {
  std::string where;
  const double difference = test::max_difference(reference, test::run_steps<double>(c), where);
  INFO("world " << c.world_size << ", heads " << c.sequence_heads << ", ring " << c.sequence_ring << ", EP "
                << c.ep_size << ", ZeRO " << c.sharded << ", micro-batch " << c.micro_batch << ", documents "
                << c.documents << ", sub-batches " << c.shape.sub_batches << "; worst: " << where);
  CHECK(difference <= kTolerance);
}

}  // namespace

TEST_CASE("Every split of a sequence over heads and ring trains the same model", "[sequence]") {
  StepCase one = base_case(GENERATE(test::small_mixtral(), test::small_gpt2_moe()));
  one.documents = GENERATE(false, true);
  const StepOutcome reference = test::run_steps<double>(one);
  for (const int heads : {1, 2, 4})
    for (const int ring : {1, 2, 4}) {
      if (heads * ring == 1 || heads * ring > 8) continue;
      StepCase c = one;
      c.sequence_heads = heads;
      c.sequence_ring = ring;
      c.world_size = heads * ring;
      c.ep_size = heads * ring >= 4 ? 4 : 2;
      check_same(reference, c);
    }
}
