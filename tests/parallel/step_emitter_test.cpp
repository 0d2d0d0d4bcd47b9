// A real model's step as the scheduler sees it: bounds hold, policies' plans fit, memory is what is taken.
#include "parallel/step/step_emitter.h"

#include <algorithm>
#include <string_view>

#include "core/rng.h"
#include "parallel/step/moe_gate_emission.h"
#include "scheduler/bound.h"
#include "scheduler/instance.h"
#include "scheduler/policy.h"
#include "scheduler/simulator.h"
#include "tests/support/catch.h"
#include "tests/support/random_plan.h"
#include "tests/support/schedule_checker.h"
#include "tests/support/step_harness.h"

using namespace weft;
using namespace weft::parallel;
using namespace weft::scheduler;

namespace {

StepSpec spec_of(std::uint64_t seed, const Rng& rng) {
  auto below = [&, n = std::uint64_t{0}](std::uint64_t bound) mutable {
    return static_cast<int>(rng.below(bound, 100 * seed + n++));
  };
  MeshOptions options;
  const int world = 1 << below(4);
  options.ep_size = 1 << below(3);
  options.esp_size = 1 << below(2);
  while (options.ep_size * options.esp_size > world) options.ep_size > 1 ? options.ep_size /= 2 : options.esp_size /= 2;
  options.sequence_heads = world >= 2 && below(2) == 0 ? 2 : 1;
  options.ranks_per_node = std::max(1, world / (1 + below(2)));
  StepSpec spec;
  spec.model = below(2) == 0 ? test::small_mixtral() : test::small_gpt2_moe();
  spec.mesh = make_mesh(world, 0, options);
  spec.geometry = {1 + below(3), 1 + below(3), 8, 1};
  spec.geometry.sequence_ranks = spec.mesh.sp_size();
  spec.sharded_optimizer = below(2) == 0;
  spec.host_apart = below(2) == 0;
  return spec;
}

/// Bandwidth, start-ups (as on GPUs with little work) or sharing decides.
CostModel costs(std::uint64_t seed) {
  CostModel c;
  const double beta = seed % 3 == 1 ? 1e-6 : 2e-3;
  for (int kind = 1; kind < kNumWorkKinds; ++kind) {
    c.intra[static_cast<std::size_t>(kind)] = {1.0 + kind, beta};
    c.inter[static_cast<std::size_t>(kind)] = {3.0 + kind, 4.0 * beta};
  }
  if (seed % 3 == 1) c.machine.issue_us = 4.0;
  if (seed % 3 == 2) c.machine.contention = {{{1, 1.3, 1.3}, {50, 1, 1.2}, {50, 1.2, 1}}};
  return c;
}

}  // namespace

TEST_CASE("No plan of a real step is below its bound, and every policy's plan is valid", "[plan]") {
  const Rng rng(11, RngPurpose::kTest);
  for (std::uint64_t seed = 0; seed < 18; ++seed) {
    const StepSpec spec = spec_of(seed, rng);
    const StepEmitter emitter(spec, seed % 3 == 0 ? Recompute::kFull : Recompute::kNone, DType::kF64);
    const CostModel cost = costs(seed);
    const double bound = lower_bound_us(emitter, cost);
    INFO("seed " << seed << ", world " << spec.mesh.world_size << ", EP " << spec.mesh.ep_size << ", ESP "
                 << spec.mesh.esp_size << ", heads " << spec.mesh.sequence_heads);
    CHECK(bound > 0.0);
    for (std::uint64_t i = 0; i < 6; ++i) {
      auto below = [&, n = std::uint64_t{0}](int most) mutable {
        return 1 + static_cast<int>(rng.below(static_cast<std::uint64_t>(most), 1000 * seed + 50 * i + n++));
      };
      const ShapeSpace& space = emitter.space();
      Shape shape = space.base;
      shape.sub_batches = {below(space.max_sub_batches)};
      shape.micro_batches_in_flight = static_cast<int>(i) % 3;
      for (LayerShape& l : shape.layers) {
        l.forward_chunks = below(space.max_forward_chunks);
        l.backward_chunks = below(space.max_backward_chunks);
        l.weight_grad_pieces = below(l.backward_chunks + 1) - 1;
      }
      const Graph graph = emitter.emit(shape);
      const Instance instance(graph, shape, cost);
      ListScheduler lists;
      Schedule schedule;
      lists.run(instance, tails(instance), schedule);
      justify(lists, instance, instance.reversed(), 4, schedule);
      CHECK(schedule.makespan >= bound * (1 - 1e-9));
      const Plan plan{"random", shape, test::random_order(graph, seed + i)};
      CHECK(price(graph, plan, cost).total_us >= bound * (1 - 1e-9));
    }
    PolicyOptions options;
    options.search.task_visits = 1e5;
    const std::vector<PolicyPlan> plans = make_all_plans(emitter, cost, options);
    for (const PolicyPlan& found : plans) {
      INFO(found.plan.policy);
      const Graph graph = emitter.emit(found.plan.shape);
      CHECK(validate(graph, found.plan).empty());
      const SlotMap slots = assign_slots(graph, found.plan);
      const Timeline timeline = simulate(graph, found.plan, slots, cost, false);
      if (seed % 3 != 2) CHECK(test::faults(graph, found.plan.shape, cost, timeline).empty());  // tasks stretch there
      CHECK(timeline.total_us == found.price.total_us);
      CHECK(plans.back().price.total_us <= found.price.total_us);
      CHECK(memory_use(graph, slots).total() == found.price.memory_bytes);
      CHECK(timeline.total_us >= bound * (1 - 1e-9));
    }
  }
}

TEST_CASE("A step says what it is, line by line", "[plan]") {
  const Rng rng(12, RngPurpose::kTest);
  StepSpec spec = spec_of(1, rng);
  const std::vector<std::string> lines = describe(spec, DType::kF32);
  CHECK(lines == describe(spec, DType::kF32));
  const auto differs = [&](const auto& change) {
    StepSpec other = spec;
    change(other);
    return describe(other, DType::kF32) != lines;
  };
  CHECK(differs([](StepSpec& s) { ++s.model.layers; }));
  CHECK(differs([](StepSpec& s) { s.model.moe.gate = "sigmoid"; }));
  CHECK(differs([](StepSpec& s) { s.dispatcher = DispatcherKind::kHierarchical2d; }));
  CHECK(differs([](StepSpec& s) { s.mesh.world_size *= 2; }));
  CHECK(differs([](StepSpec& s) { ++s.geometry.num_micro_batches; }));
  CHECK(differs([](StepSpec& s) { s.host_apart = !s.host_apart; }));
  CHECK(describe(spec, DType::kF64) != lines);
}

TEST_CASE("On one node no task takes links between nodes, on two the gradient norm does", "[plan]") {
  const Rng rng(13, RngPurpose::kTest);
  int num_one_node = 0;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const StepSpec spec = spec_of(seed, rng);
    const bool one_node = spec.mesh.world_size <= spec.mesh.ranks_per_node;
    num_one_node += one_node ? 1 : 0;
    INFO("seed " << seed << ", world " << spec.mesh.world_size << ", a node " << spec.mesh.ranks_per_node);
    const Graph graph = emit_step(spec, uniform_shape(spec.model.layers, {}), DType::kF64);
    for (const Task& task : graph.tasks) {
      if (one_node) CHECK(!task.resources.has(Resource::kInter));
      if (task.stage != Stage::kGradNorm) continue;
      CHECK(task.resources.has(Resource::kCompute));
      CHECK(task.resources.has(Resource::kIntra) == (spec.mesh.world_size > 1 && spec.mesh.ranks_per_node > 1));
      CHECK(task.resources.has(Resource::kInter) == !one_node);
    }
  }
  CHECK(num_one_node > 1);
  CHECK(num_one_node < 11);
}

TEST_CASE("A layer that is computed again takes over the counts of its rows", "[plan]") {
  StepSpec spec = spec_of(3, Rng(11, RngPurpose::kTest));
  spec.model = test::small_mixtral();
  spec.mesh = make_mesh(4, 0, {.ep_size = 4, .ranks_per_node = 4});
  spec.geometry = {2, 2, 8, 1};
  for (const bool host_apart : {false, true}) {
    spec.host_apart = host_apart;
    const Graph graph =
        StepEmitter(spec, Recompute::kFull, DType::kF32)
            .emit(uniform_shape(2, {.forward_chunks = 2, .backward_chunks = 3, .recompute = Recompute::kFull}));
    CHECK(num_host_waits(graph) == (host_apart ? 4 : 0));  // a layer and micro-batch each
    int exchanges = 0, tables = 0;
    for (TaskId t = 0; t < graph.num_tasks(); ++t) {
      const Task& task = graph.tasks[t];
      if (task.stage == Stage::kCountExchange) ++exchanges;
      if (task.stage != Stage::kOrder || std::string_view(task.label) != "tables" || task.phase != Phase::kBackward)
        continue;
      ++tables;  // of a recomputation: behind the task in which the first pass learnt the counts
      const auto deps = graph.dependencies(t);
      CHECK(std::any_of(deps.begin(), deps.end(), [&](TaskId d) {
        const Task& before = graph.tasks[d];
        return before.phase == Phase::kForward && before.layer == task.layer &&
               before.stage == (host_apart ? Stage::kHostWait : Stage::kOrder);
      }));
    }
    CHECK(exchanges == 4);
    CHECK(tables == 4);
  }
}

TEST_CASE("A step padded to capacities exchanges no counts and waits for none", "[plan]") {
  StepSpec spec = spec_of(3, Rng(11, RngPurpose::kTest));
  spec.model = test::small_mixtral();
  spec.mesh = make_mesh(4, 0, {.ep_size = 4, .ranks_per_node = 4});
  spec.geometry = {2, 2, 8, 1};
  spec.host_apart = true;
  CHECK_FALSE(can_pad(spec));  // dropless: there is nothing to pad to
  spec.model.moe.capacity_factor = 1.5;
  CHECK(can_pad(spec));
  const auto emit = [&](bool padded) {
    return StepEmitter(spec, Recompute::kNone, DType::kBF16, padded).emit(uniform_shape(2, {.padded = padded}));
  };
  const auto sum = [](const Graph& graph, Stage stage) {
    double amount = 0.0;
    for (const Task& task : graph.tasks) amount += task.stage == stage ? task.work.amount : 0.0;
    return amount;
  };
  const Graph exact = emit(false), padded = emit(true);
  CHECK(num_host_waits(exact) == 4);  // a layer and micro-batch each
  CHECK(num_host_waits(padded) == 0);
  CHECK(sum(exact, Stage::kCountExchange) > 0.0);
  CHECK(sum(padded, Stage::kCountExchange) == 0.0);
  for (const Stage stage : {Stage::kDispatch, Stage::kCombine, Stage::kExpert})  // what is priced: C instead of K n / E
    CHECK(sum(padded, stage) == Approx(1.5 * sum(exact, stage)));
  spec.mesh = make_mesh(4, 0, {.ep_size = 4, .sequence_heads = 2, .ranks_per_node = 4});
  spec.geometry.sequence_ranks = 2;
  CHECK_FALSE(can_pad(spec));
}
