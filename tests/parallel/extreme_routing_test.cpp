// All tokens to one expert, experts and ranks without a token, one-token batches, heavy drops: no hang, right numbers.
#include "tests/support/catch.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using test::StepCase;

namespace {

/// One sequence of a single token per rank, or more experts than choices: most experts and ranks get nothing.
void check_against_one_rank(StepCase c, int world, int ep) {
  const test::StepOutcome reference = test::run_steps<double>(c);
  c.world_size = world;
  c.ep_size = ep;
  for (const int chunks : {1, 3}) {
    c.shape.forward_chunks = chunks;
    c.shape.backward_chunks = 4 - chunks;
    std::string where;
    const test::StepOutcome outcome = test::run_steps<double>(c);
    INFO("chunks " << chunks << ", worst: " << where);
    CHECK(test::max_difference(reference, outcome, where) <= 1e-10);
  }
}

}  // namespace

TEST_CASE("All tokens to one expert", "[extreme]") {
  StepCase c;
  c.model = test::small_mixtral();
  c.model.moe.top_k = 1;
  c.model.init_std = 0.0;  // all logits equal: ties go to expert 0
  c.steps = 1;             // before the router has learned to tell experts apart
  const test::StepOutcome one = test::run_steps<double>(c);
  CHECK(one.steps[0].router[0].choices[0] == 64.0);
  CHECK(one.steps[0].max_violation == 3.0);
  CHECK(one.steps[0].dead_experts == 2 * 3);
  check_against_one_rank(c, 4, 4);
  c.world_size = c.ep_size = 4;
  const test::StepOutcome four = test::run_steps<double>(c);
  CHECK(four.steps[0].rank_imbalance == 4.0);
  CHECK(four.num_grows > 0);  // rank 0 took in four times the mean: its buffers grew, and nothing failed
}

TEST_CASE("One-token batches leave most experts and ranks without a token", "[extreme]") {
  StepCase c;
  c.model = GENERATE(test::small_mixtral(), test::small_gpt2_moe());
  c.global_batch = 4;
  c.micro_batch = 1;
  c.sequence_length = 1;
  check_against_one_rank(c, 4, 4);
}

TEST_CASE("Capacity for a single choice per expert", "[extreme]") {
  StepCase c;
  c.model = test::small_mixtral();
  c.model.moe.capacity_factor = 0.01;  // C = 1
  const test::StepOutcome one = test::run_steps<double>(c);
  CHECK(one.steps[0].drop_fraction >= 0.75);  // at most 4 of 16 choices of a sequence stay
  check_against_one_rank(c, 2, 2);
}
