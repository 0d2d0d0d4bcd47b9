#include "parallel/train/replanner.h"

#include <nlohmann/json.hpp>

#include "comm/factory.h"
#include "core/error.h"
#include "parallel/train/checkpoint.h"
#include "parallel/train/run_setup.h"
#include "tests/support/catch.h"
#include "tests/support/training.h"
#include "tools/config/schedule_files.h"

using namespace weft;
using namespace weft::parallel;

namespace {

/// The plan's simulated step with every task `factor` times as long.
scheduler::Timeline slowed(const RunPlan& plan, double factor) {
  scheduler::Timeline time = plan.predicted;
  for (std::size_t t = 0; t < time.end_us.size(); ++t)
    time.end_us[t] = time.start_us[t] + factor * (time.end_us[t] - time.start_us[t]);
  return time;
}

/// The look after as many steps of `plan` as it takes, each with the tasks of `time` and of `step_ms`.
Replan after_steps(Replanner& replanner, const RunConfig& config, const RunPlan& plan, std::int64_t step,
                   const scheduler::Timeline& time, double step_ms) {
  const scheduler::Graph graph = emit_step(training_spec(config, plan.mesh, {}), plan.plan.shape, config.train.dtype);
  for (int i = 0; i <= config.schedule.replan; ++i) replanner.observe(graph, time, i == 0 ? 1e6 : step_ms);
  const std::optional<Replan> look = replanner.consider(step, plan);
  REQUIRE(look);
  CHECK(look->entry == replanner.log().back());
  return *look;
}

nlohmann::json last_entry(const Replanner& replanner) { return nlohmann::json::parse(replanner.log().back()); }
std::string action(const Replanner& replanner) { return last_entry(replanner)["action"]; }
double predicted_ms(const Replanner& replanner, const char* when) {
  return last_entry(replanner)["predicted_ms"][when];
}

}  // namespace

TEST_CASE("A plan that is predicted to be faster is tried, and kept only if it is", "[replan]") {
  const test::TempFolder folder;
  RunConfig coarse = test::tiny_run(folder.path());
  coarse.parallel.expert = 2;
  coarse.train.steps = 100'000;
  coarse.schedule.replan = 3;
  RunConfig fine = coarse;  // the plan that the run has: eight chunks, each with the start-up of its own
  fine.schedule.forward_chunks = fine.schedule.backward_chunks = 8;
  comm::run_local_ranks(2, [&](comm::Communicator& world) {
    const scheduler::CostModel cost = tools::nominal_costs();
    const RunPlan slow = plan_run(fine, 2, world.rank(), 2, cost);
    const RunPlan fast = plan_run(coarse, 2, world.rank(), 2, cost);
    Replanner replanner(coarse, world, cost, {});
    CHECK(!replanner.consider(1, slow));  // nothing was measured
    CHECK(replanner.log().empty());

    const Replan trial = after_steps(replanner, coarse, slow, 10, slowed(slow, 2.0), 50.0);
    REQUIRE(trial.changes);
    CHECK(action(replanner) == "try");
    CHECK(trial.plan.plan.shape == fast.plan.shape);
    CHECK(trial.plan.predicted_ms ==
          Approx(2.0 * fast.predicted_ms).epsilon(0.01));  // the refit: everything takes twice as long
    CHECK(predicted_ms(replanner, "before") == Approx(2.0 * slow.predicted_ms).epsilon(0.01));
    CHECK(predicted_ms(replanner, "after") == Approx(trial.plan.predicted_ms).epsilon(0.01));
    CHECK_THAT(trial.cost.source, Catch::Contains("up to step 10; at its start " + cost.source));
    CHECK(trial.plan.cost_source == trial.cost.source);

    Replanner other(coarse, world, cost, replanner.log());
    const Replan accepted = after_steps(replanner, coarse, trial.plan, 20, slowed(trial.plan, 1.0), 40.0);
    CHECK(!accepted.changes);
    CHECK(action(replanner) == "accept");
    CHECK(predicted_ms(replanner, "before") == predicted_ms(replanner, "after"));
    const Replan kept = after_steps(replanner, coarse, accepted.plan, 30, slowed(trial.plan, 3.0), 40.0);
    CHECK(!kept.changes);
    CHECK(action(replanner) == "keep");
    CHECK(kept.plan.predicted_ms == Approx(3.0 * trial.plan.predicted_ms).epsilon(0.01));  // of the same plan, anew
    CHECK_THAT(kept.plan.cost_source, Catch::Contains("up to step 30; at its start " + cost.source));

    const Replan again = after_steps(other, coarse, slow, 10, slowed(slow, 1.0), 50.0);
    REQUIRE(again.changes);
    const Replan back = after_steps(other, coarse, again.plan, 20, slowed(again.plan, 1.0), 60.0);
    REQUIRE(back.changes);
    CHECK(action(other) == "give_up");
    CHECK(scheduler::digest(back.plan.plan) == scheduler::digest(slow.plan));
    CHECK(predicted_ms(other, "after") == Approx(slow.predicted_ms).epsilon(0.01));
    CHECK(!after_steps(other, coarse, back.plan, 30, slowed(slow, 1.0), 50.0).changes);  // never again
    CHECK(action(other) == "keep");

    Replanner resumed(coarse, world, cost, other.log());  // nor after resuming
    CHECK(!after_steps(resumed, coarse, slow, 40, slowed(slow, 1.0), 50.0).changes);
  });
}

TEST_CASE("Costs that are refitted again and again settle at what was measured", "[replan]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.train.steps = 1000;
  config.schedule.replan = 2;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    const scheduler::CostModel cost = tools::nominal_costs();
    const RunPlan first = plan_run(config, 1, 0, 1, cost);
    RunPlan plan = first;
    Replanner replanner(config, world, cost, {});
    for (int look = 1; look <= 4; ++look) {
      const Replan kept = after_steps(replanner, config, plan, 10 * look, slowed(first, 2.0), 50.0);
      CHECK(!kept.changes);
      CHECK(predicted_ms(replanner, "before") == Approx(2.0 * first.predicted_ms).epsilon(0.01));
      plan = kept.plan;
    }
  });
}

TEST_CASE("A change that the rest of the run cannot pay for is left alone", "[replan]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.schedule.replan = 1;
  config.train.steps = 11;
  RunConfig fine = config;
  fine.schedule.forward_chunks = fine.schedule.backward_chunks = 8;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    const scheduler::CostModel cost = tools::nominal_costs();
    const RunPlan slow = plan_run(fine, 1, 0, 1, cost);
    Replanner replanner(config, world, cost, {});
    CHECK(!after_steps(replanner, config, slow, 10, slowed(slow, 1.0), 1e-6).changes);
    CHECK_THAT(replanner.log().back(), Catch::Contains("less than a change costs"));
  });
}

TEST_CASE("Training that changes its plan computes the same, and keeps the log", "[replan]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.parallel.expert = 2;
  config.train.steps = 12;
  config.checkpoint.every = 4;
  config.schedule.executor = ExecutorChoice::kStreams;
  config.schedule.forward_chunks = config.schedule.backward_chunks = 8;
  test::run_training(config, {2, folder.path() / "plain"});
  config.schedule.replan = 1;
  test::run_training(config, {2, folder.path() / "run", Resume::kAuto, {}, 5});  // stops after step 4
  config.schedule.forward_chunks = config.schedule.backward_chunks = 1;          // resumed: the old plan, then this one
  const test::TrainRun run = test::run_training(config, {2, folder.path() / "run"});
  std::string notes;
  for (const std::string& note : run.notes) notes += note + "\n";
  INFO(notes);
  CHECK_THAT(notes, Catch::Contains("\"action\":\"try\""));
  for (const char* key : {"loss", "grad_norm", "aux_loss"}) {
    const std::vector<double> a = test::metric(folder.path() / "plain", key),
                              b = test::metric(folder.path() / "run", key);
    REQUIRE(a.size() == 12);
    REQUIRE(b.size() == 12);
    for (std::size_t i = 0; i < a.size(); ++i) CHECK(b[i] == Approx(a[i]).epsilon(1e-10));
  }
  const Checkpoint last(folder.path() / "run/checkpoints/step-00000012");
  REQUIRE(last.state().replans.size() >= 3);
  CHECK_THAT(last.state().replans.back(), Catch::Contains("\"action\""));
}
