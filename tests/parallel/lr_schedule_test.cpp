#include "parallel/train/lr_schedule.h"

#include "tests/support/catch.h"

using namespace weft::parallel;

TEST_CASE("The learning rate follows its schedule", "[lr]") {
  OptimizerConfig c;
  c.lr = 2.0;
  c.min_lr_ratio = 0.25;
  c.warmup_steps = 4;
  SECTION("warm-up is linear and ends at the peak") {
    CHECK(learning_rate(c, 1, 20) == Approx(0.5));
    CHECK(learning_rate(c, 4, 20) == Approx(2.0));
  }
  SECTION("cosine: half way is the mean, the end is the minimum") {
    CHECK(learning_rate(c, 12, 20) == Approx(1.25));
    CHECK(learning_rate(c, 20, 20) == Approx(0.5));
    for (int s = 5; s <= 20; ++s) CHECK(learning_rate(c, s, 20) < learning_rate(c, s - 1, 20));
  }
  SECTION("linear") {
    c.schedule = LrSchedule::kLinear;
    CHECK(learning_rate(c, 8, 20) == Approx(2.0 - 1.5 / 4));
    CHECK(learning_rate(c, 20, 20) == Approx(0.5));
  }
  SECTION("constant") {
    c.schedule = LrSchedule::kConstant;
    CHECK(learning_rate(c, 20, 20) == 2.0);
  }
  SECTION("warm-up, stable, decay") {
    c.schedule = LrSchedule::kWsd;
    c.wsd_decay_fraction = 0.5;
    CHECK(learning_rate(c, 10, 20) == 2.0);
    CHECK(learning_rate(c, 15, 20) == Approx(1.25));
    CHECK(learning_rate(c, 20, 20) == Approx(0.5));
  }
  SECTION("a warm-up longer than the run, and no warm-up") {
    c.warmup_steps = 100;
    CHECK(learning_rate(c, 20, 20) == Approx(0.4));
    c.warmup_steps = 0;
    CHECK(learning_rate(c, 1, 1) == Approx(0.5));
  }
}
