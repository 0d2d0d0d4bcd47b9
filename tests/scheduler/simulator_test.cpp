#include "scheduler/simulator.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "scheduler/order.h"
#include "tests/support/catch.h"
#include "tests/support/random_plan.h"

using namespace weft;
using namespace weft::scheduler;
using test::random_graph;
using test::random_order;

namespace {

CostModel costs() {
  CostModel c;
  c.intra[static_cast<int>(WorkKind::kGemm)] = {2.0, 0.5};
  c.intra[static_cast<int>(WorkKind::kMemory)] = {1.0, 0.1};
  c.inter = c.intra;
  return c;
}

TaskSpec spec(ResourceSet resources, double us) {
  TaskSpec s;
  s.resources = resources;
  s.work = {us > 0 ? WorkKind::kMemory : WorkKind::kNothing, us};
  return s;
}

CostModel one_us_per_byte() {
  CostModel c;
  c.intra[static_cast<int>(WorkKind::kMemory)] = {0.0, 1.0};
  c.inter = c.intra;
  return c;
}

void set_contention(CostModel& cost, Resource a, Resource b, double factor) {
  cost.machine.contention[static_cast<std::size_t>(a)][static_cast<std::size_t>(b)] = factor;
  cost.machine.contention[static_cast<std::size_t>(b)][static_cast<std::size_t>(a)] = factor;
}

Timeline run(const Graph& graph, const CostModel& cost, bool single = false) {
  const Plan plan = sequential_plan(graph, {});
  return simulate(graph, plan, assign_slots(graph, plan), cost, single);
}

/// Time that task t takes on `timeline` if the others slow it as documented, by integrating over all intervals between
/// starts and ends: quadratic, and without the simulator's bookkeeping.
double work_done(const Graph& graph, const Timeline& timeline, const CostModel& cost, TaskId t) {
  std::vector<double> times(timeline.start_us);
  times.insert(times.end(), timeline.end_us.begin(), timeline.end_us.end());
  std::sort(times.begin(), times.end());
  double done = 0.0;
  for (std::size_t i = 0; i + 1 < times.size(); ++i) {
    const double from = times[i], to = times[i + 1], middle = 0.5 * (from + to);
    const auto runs = [&](TaskId u) { return timeline.start_us[u] < middle && middle < timeline.end_us[u]; };
    if (from >= to || !runs(t)) continue;
    double slowdown = 1.0;
    int count = 0;
    for (TaskId u = 0; u < graph.num_tasks(); ++u) {
      if (!runs(u)) continue;
      ++count;
      if (u == t) continue;
      double factor = 1.0;
      for (std::size_t a = 0; a < 3; ++a)
        for (std::size_t b = 0; b < 3; ++b)
          if (graph.tasks[t].resources.has(static_cast<Resource>(a)) &&
              graph.tasks[u].resources.has(static_cast<Resource>(b)))
            factor = std::max(factor, cost.machine.contention[a][b]);
      slowdown += factor - 1.0;
    }
    if (cost.machine.cores_per_rank > 0)
      slowdown = std::max(slowdown, count / std::max(1.0, cost.machine.cores_per_rank));
    done += (to - from) / slowdown;
  }
  return done;
}

}  // namespace

TEST_CASE("Without contention the event simulation is the plain one, bit for bit", "[simulator]") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    INFO("seed " << seed);
    const Graph graph = random_graph(seed, 120, seed % 2 == 1);
    const Plan plan{"random", {}, random_order(graph, seed)};
    const SlotMap slots = assign_slots(graph, plan);
    CostModel plain = costs();
    plain.machine.issue_us = seed % 3 == 0 ? 0.0 : 3.0;
    CostModel events = plain;
    events.machine.cores_per_rank = 1000.0;  // more than can be short: the same steps by the other way
    const Timeline a = simulate(graph, plan, slots, plain, false), b = simulate(graph, plan, slots, events, false);
    CHECK(a.start_us == b.start_us);
    CHECK(a.end_us == b.end_us);
    CHECK(a.total_us == b.total_us);
  }
}

TEST_CASE("Overlapping tasks stretch each other while they overlap", "[simulator]") {
  GraphBuilder b;
  b.add_task(spec({Resource::kCompute}, 10), {}, {});
  b.add_task(spec({Resource::kIntra}, 4), {}, {});
  const Graph graph = b.take();
  CostModel cost = one_us_per_byte();
  set_contention(cost, Resource::kCompute, Resource::kIntra, 1.5);
  const Timeline t = run(graph, cost);
  CHECK(t.end_us[1] == Approx(6.0));   // 4 at two thirds
  CHECK(t.end_us[0] == Approx(12.0));  // 4 of 10 by then, 6 more alone
  CHECK(run(graph, cost, true).total_us == Approx(14.0));
}

TEST_CASE("Three at once add up, and cores are shared", "[simulator]") {
  GraphBuilder b;
  for (const Resource r : {Resource::kCompute, Resource::kIntra, Resource::kInter}) b.add_task(spec({r}, 6), {}, {});
  const Graph graph = b.take();
  CostModel cost = one_us_per_byte();
  set_contention(cost, Resource::kCompute, Resource::kIntra, 2.0);
  set_contention(cost, Resource::kCompute, Resource::kInter, 2.0);
  const Timeline t = run(graph, cost);
  CHECK(t.end_us[1] == Approx(12.0));
  CHECK(t.end_us[0] == Approx(14.0));  // a third of 12, then 2 alone
  CostModel cores = one_us_per_byte();
  cores.machine.cores_per_rank = 2.0;
  CHECK(run(graph, cores).total_us == Approx(9.0));
  cores.machine.cores_per_rank = 0.5;  // half a core each: already in the costs of a task alone
  CHECK(run(graph, cores).total_us == Approx(18.0));
}

TEST_CASE("Every task of a contended step gets exactly its work done", "[simulator]") {
  for (std::uint64_t seed = 0; seed < 25; ++seed) {
    INFO("seed " << seed);
    const Graph graph = random_graph(seed, 60, seed % 2 == 1);
    const Plan plan{"random", {}, random_order(graph, seed)};
    const SlotMap slots = assign_slots(graph, plan);
    CostModel cost = costs();
    set_contention(cost, Resource::kCompute, Resource::kIntra, 1.3);
    set_contention(cost, Resource::kCompute, Resource::kInter, 1.1);
    set_contention(cost, Resource::kIntra, Resource::kInter, 1.7);
    if (seed % 2 == 1) cost.machine.cores_per_rank = 1.5;
    if (seed % 3 == 1) cost.machine.issue_us = 20.0;
    const Timeline t = simulate(graph, plan, slots, cost, false);
    const Timeline alone = simulate(graph, plan, slots, costs(), false);
    std::array<double, 3> free{};
    for (std::size_t i = 0; i < plan.issue_order.size(); ++i) {
      const TaskId id = plan.issue_order[i];
      CHECK(work_done(graph, t, cost, id) == Approx(cost.cost_us(graph.tasks[id])).epsilon(1e-9));
      CHECK(t.start_us[id] >= (static_cast<double>(i) + 1) * cost.machine.issue_us * (1 - 1e-12));
      for (const TaskId d : graph.dependencies(id)) CHECK(t.start_us[id] >= t.end_us[d]);
      for (std::size_t r = 0; r < 3; ++r)
        if (graph.tasks[id].resources.has(static_cast<Resource>(r))) {
          CHECK(t.start_us[id] >= free[r]);
          free[r] = t.end_us[id];
        }
    }
    for (const SlotMap::Edge& e : slots.reuse_edges) CHECK(t.start_us[e.to] >= t.end_us[e.from]);
    CHECK(t.total_us >= alone.total_us * (1 - 1e-12));
    CHECK(simulate(graph, plan, slots, cost, false).end_us == t.end_us);
  }
}

TEST_CASE("A task waits for its issue, and a host wait holds the host", "[simulator]") {
  GraphBuilder b;
  b.add_task(spec({Resource::kIntra}, 10), {}, {});
  b.add_task(spec({Resource::kHost}, 5), {}, {});
  b.add_task(spec({Resource::kCompute}, 1), {}, {});
  const Graph graph = b.take();
  CostModel cost = one_us_per_byte();
  cost.machine.issue_us = 2.0;
  for (const double cores : {0.0, 100.0}) {
    INFO("cores " << cores);
    cost.machine.cores_per_rank = cores;
    const Timeline t = run(graph, cost);
    CHECK(t.start_us[0] == 2.0);
    CHECK(t.start_us[1] == 4.0);
    CHECK(t.start_us[2] == 11.0);  // the wait ends at 9, then 2 to issue
  }
  const Timeline single = run(graph, cost, true);
  CHECK(single.total_us == 2 + 10 + 2 + 5 + 2 + 1);
}

TEST_CASE("Ranks that share a core slow computation by how much they compute", "[simulator]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer({"x", MemoryClass::kActivations, 8, false, false});
  b.add_task(spec({Resource::kInter}, 90), {}, std::vector{x});
  b.add_task(spec({Resource::kCompute}, 30), std::vector{x}, {});
  const Graph graph = b.take();
  CostModel cost = one_us_per_byte();
  cost.machine.ranks_per_core = 2.0;
  double expected = 30.0;  // c = 30 (1 + u^2), u = c / (90 + c)
  for (int i = 0; i < 100; ++i) expected = 30.0 * (1.0 + std::pow(expected / (90.0 + expected), 2));
  for (const bool single : {true, false}) {
    const Timeline t = run(graph, cost, single);
    CHECK(t.end_us[0] == Approx(90.0));  // a wait for the link is nobody's
    CHECK(t.end_us[1] - t.start_us[1] == Approx(expected).epsilon(0.005));
  }
  GraphBuilder only;
  only.add_task(spec({Resource::kCompute}, 30), {}, {});
  CHECK(run(only.take(), cost).total_us == Approx(60.0).epsilon(0.05));  // the whole step: half a core each
}

TEST_CASE("An order that breaks an edge is refused, not waited for", "[simulator]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer({"x", MemoryClass::kActivations, 8, false, false});
  b.add_task(spec({Resource::kCompute}, 1), {}, std::vector{x});
  b.add_task(spec({Resource::kCompute}, 1), std::vector{x}, {});
  const Graph graph = b.take();
  CostModel cost = one_us_per_byte();
  cost.machine.cores_per_rank = 1.0;
  CHECK_THROWS_AS(simulate(graph, {"wrong", {}, {1, 0}}, {{kNoId}, {}, {}}, cost, false), Error);
}
