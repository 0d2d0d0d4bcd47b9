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

/// Lets the replanner see steps in which every task takes `slow` times what was predicted, each of `step_ms`.
std::optional<RunPlan> after_steps(Replanner& replanner, const RunConfig& config, const RunPlan& plan,
                                   std::int64_t step, double slow, double step_ms) {
  const scheduler::Graph graph = emit_step(training_spec(config, plan.mesh, {}), plan.plan.shape, config.train.dtype);
  scheduler::Timeline time = plan.predicted;
  for (std::size_t t = 0; t < time.end_us.size(); ++t)
    time.end_us[t] = time.start_us[t] + slow * (time.end_us[t] - time.start_us[t]);
  for (int i = 0; i <= config.schedule.replan; ++i) replanner.observe(graph, time, i == 0 ? 1e6 : step_ms);
  return replanner.consider(step, plan);
}

std::string action(const Replanner& replanner) { return nlohmann::json::parse(replanner.log().back())["action"]; }

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

    const std::optional<RunPlan> trial = after_steps(replanner, coarse, slow, 10, 2.0, 50.0);
    REQUIRE(trial);
    CHECK(action(replanner) == "try");
    CHECK(trial->plan.shape == fast.plan.shape);
    CHECK(trial->predicted_ms ==
          Approx(2.0 * fast.predicted_ms).epsilon(0.01));  // the refit: everything takes twice as long

    Replanner other(coarse, world, cost, replanner.log());
    CHECK(!after_steps(replanner, coarse, *trial, 20, 1.0, 40.0));
    CHECK(action(replanner) == "accept");
    CHECK(!after_steps(replanner, coarse, *trial, 30, 1.0, 40.0));
    CHECK(action(replanner) == "keep");

    const std::optional<RunPlan> again = after_steps(other, coarse, slow, 10, 1.0, 50.0);
    REQUIRE(again);
    const std::optional<RunPlan> back = after_steps(other, coarse, *again, 20, 1.0, 60.0);
    REQUIRE(back);
    CHECK(action(other) == "give_up");
    CHECK(scheduler::digest(back->plan) == scheduler::digest(slow.plan));
    CHECK(!after_steps(other, coarse, *back, 30, 1.0, 50.0));  // never again
    CHECK(action(other) == "keep");

    Replanner resumed(coarse, world, cost, other.log());  // nor after resuming
    CHECK(!after_steps(resumed, coarse, slow, 40, 1.0, 50.0));
  });
}

TEST_CASE("Costs that are refitted again and again settle at what was measured", "[replan]") {
  const test::TempFolder folder;
  RunConfig config = test::tiny_run(folder.path());
  config.train.steps = 1000;
  config.schedule.replan = 2;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    const scheduler::CostModel cost = tools::nominal_costs();
    const RunPlan plan = plan_run(config, 1, 0, 1, cost);
    Replanner replanner(config, world, cost, {});
    for (int look = 1; look <= 4; ++look) {
      CHECK(!after_steps(replanner, config, plan, 10 * look, 2.0, 50.0));
      const double predicted = nlohmann::json::parse(replanner.log().back())["predicted_ms"]["before"];
      CHECK(predicted == Approx(2.0 * plan.predicted_ms).epsilon(0.01));
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
    CHECK(!after_steps(replanner, config, slow, 10, 1.0, 1e-6));
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
