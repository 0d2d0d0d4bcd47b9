// Searched and fixed schedules: valid, never below the bound, and as good as they must be.
#include "scheduler/search.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <set>

#include "core/error.h"
#include "scheduler/bound.h"
#include "scheduler/instance.h"
#include "scheduler/layer_emitter.h"
#include "scheduler/local_search.h"
#include "scheduler/order.h"
#include "scheduler/policy.h"
#include "scheduler/simulator.h"
#include "scheduler/stage_emitter.h"
#include "tests/support/catch.h"
#include "tests/support/draw.h"
#include "tests/support/random_plan.h"
#include "tests/support/schedule_checker.h"

using namespace weft;
using namespace weft::scheduler;
using test::Draw;
using test::random_graph;
using test::random_order;

namespace {

CostModel line_costs(double scale = 1.0) {
  CostModel c;
  for (int kind = 1; kind < kNumWorkKinds; ++kind) c.intra[kind] = c.inter[kind] = {2.0 * kind * scale, 0.5};
  return c;
}

Timeline run(const Graph& graph, const Plan& plan, const CostModel& cost) {
  return simulate(graph, plan, assign_slots(graph, plan), cost, false);
}

Timeline timeline_of(const Schedule& schedule, const Instance& instance) {
  Timeline out{schedule.start, schedule.start, schedule.makespan};
  for (std::size_t t = 0; t < out.end_us.size(); ++t) out.end_us[t] += instance.duration[t];
  return out;
}

StageTable small_table() {
  StageTable t;
  t.forward = {6.0, 0.0, 4.5, 5.0, 3.0, 0.1, 0.4, 2.0};
  t.backward = {6.0, 5.0, 4.5, 5.0, 6.0, 0.1, 0.4, 3.5};
  t.expert_shard_share = 2.0 / 3.0;
  t.alpha_all_to_all = 0.3;
  t.alpha_all_gather = t.alpha_reduce_scatter = 0.35;
  t.alpha_all_reduce = 0.5;
  t.alpha_expert = 0.05;
  t.gradient_bytes = 100e6;
  return t;
}

Shape random_shape(const ShapeSpace& space, Draw& d) {
  Shape shape = space.base;
  shape.sub_batches.clear();
  for (int m = 0; m < space.num_micro_batches; ++m) shape.sub_batches.push_back(1 + d.below(space.max_sub_batches));
  for (LayerShape& l : shape.layers) {
    l.forward_chunks = 1 + d.below(space.max_forward_chunks);
    l.backward_chunks = 1 + d.below(space.max_backward_chunks);
    l.weight_grad_pieces = space.has_weight_grads ? d.below(l.backward_chunks + 1) : 0;
    const int slices = 1 + d.below(space.max_gradient_slices);
    l.gradient_shares.assign(static_cast<std::size_t>(slices), 1.0 / slices);
  }
  return shape;
}

LayerWork random_work(Draw& d, bool gradient) {
  LayerWork w;
  w.all_to_all = {WorkKind::kAllToAll, d.real(1, 60), 1.0};
  w.all_gather = {WorkKind::kAllGather, d.real(1, 40), 1.0};
  w.reduce_scatter = {WorkKind::kReduceScatter, d.real(1, 40), 1.0};
  w.expert = {WorkKind::kGroupedGemm, d.real(1, 90), 1.0 + d.below(3)};
  if (gradient) w.gradient = {WorkKind::kAllReduce, d.real(1, 50), 1.0};
  return w;
}

/// The best schedule there is, by trying every task that may start next at its earliest time: branch and bound over
/// semi-active schedules. Small instances only.
class Exhaustive {
 public:
  explicit Exhaustive(const Instance& in) : in_(in), tail_(tails(in)), end_(in.duration.size(), -1.0) {}
  double best() {
    std::vector<int> missing;
    for (TaskId t = 0; t < in_.size(); ++t) missing.push_back(static_cast<int>(in_.predecessors(t).size()));
    std::array<double, kNumResources> free{};
    visit(missing, free, 0.0, 0);
    return best_;
  }

 private:
  void visit(std::vector<int>& missing, const std::array<double, kNumResources>& free, double makespan, int done) {
    if (makespan >= best_) return;
    if (done == in_.size()) {
      best_ = makespan;
      return;
    }
    for (TaskId t = 0; t < in_.size(); ++t) {
      if (missing[t] != 0 || end_[t] >= 0.0) continue;
      double start = 0.0;
      for (const TaskId p : in_.predecessors(t)) start = std::max(start, end_[p]);
      std::array<double, kNumResources> next = free;
      for (int r = 0; r < kNumResources; ++r)
        if ((in_.occupied[t] >> r & 1) != 0) start = std::max(start, free[r]);
      if (start + tail_[t] >= best_) continue;
      end_[t] = start + in_.duration[t];
      for (int r = 0; r < kNumResources; ++r)
        if ((in_.occupied[t] >> r & 1) != 0) next[r] = end_[t];
      for (const TaskId s : in_.successors(t)) --missing[s];
      visit(missing, next, std::max(makespan, end_[t]), done + 1);
      for (const TaskId s : in_.successors(t)) ++missing[s];
      end_[t] = -1.0;
    }
  }

  const Instance& in_;
  std::vector<double> tail_, end_;
  double best_ = std::numeric_limits<double>::infinity();
};

}  // namespace

TEST_CASE("The checker finds what is wrong with a schedule", "[checker]") {
  const StageEmitter emitter(small_table(), 2, 3);
  Shape shape = emitter.space().base;
  shape.micro_batches_in_flight = 1;
  const Graph graph = emitter.emit(shape);
  const CostModel cost = emitter.costs();
  const Plan plan = sequential_plan(graph, shape);
  const Timeline good = run(graph, plan, cost);
  REQUIRE(test::faults(graph, shape, cost, good).empty());
  SECTION("a task too early") {
    Timeline bad = good;
    bad.start_us[5] -= 1.0, bad.end_us[5] -= 1.0;
    CHECK(!test::faults(graph, shape, cost, bad).empty());
  }
  SECTION("a task too short") {
    Timeline bad = good;
    bad.end_us[5] -= 1.0;
    CHECK(!test::faults(graph, shape, cost, bad).empty());
  }
  SECTION("two at once on a resource") {
    Timeline bad = good;
    const double last = bad.end_us.back() - bad.start_us.back();
    bad.start_us.back() = bad.start_us[bad.start_us.size() - 2];
    bad.end_us.back() = bad.start_us.back() + last;
    bad.total_us = *std::max_element(bad.end_us.begin(), bad.end_us.end());
    CHECK(!test::faults(graph, shape, cost, bad).empty());
  }
  SECTION("too many micro-batches in flight") {
    Shape two = shape;
    two.micro_batches_in_flight = 2;
    const Graph freer = emitter.emit(two);
    const SearchResult found = search_plan(emitter, cost, {}, {3e5, 0, 1});
    const Graph chosen = emitter.emit(found.plan.shape);
    Shape claimed = found.plan.shape;
    claimed.micro_batches_in_flight = 1;
    CHECK(test::faults(chosen, found.plan.shape, cost, run(chosen, found.plan, cost)).empty());
    CHECK(!test::faults(chosen, claimed, cost, run(chosen, found.plan, cost)).empty());
  }
}

TEST_CASE("List schedules, justified and improved ones are valid and not above the sum", "[search]") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    INFO("seed " << seed);
    const Graph graph = random_graph(seed, 90);
    Shape shape;
    if (seed % 3 == 1) shape.stream_of_resource = {0, 1, 1, 2};
    const CostModel cost = line_costs();
    const Instance forward(graph, shape, cost), backward = forward.reversed();
    ListScheduler lists;
    Schedule schedule;
    lists.run(forward, tails(forward), schedule);
    CHECK(test::faults(graph, shape, cost, timeline_of(schedule, forward)).empty());
    const double listed = schedule.makespan;
    justify(lists, forward, backward, 5, schedule);
    CHECK(test::faults(graph, shape, cost, timeline_of(schedule, forward)).empty());
    CHECK(schedule.makespan <= listed);
    const double justified = schedule.makespan;
    LocalSearch(forward).run(300, seed, schedule);
    CHECK(test::faults(graph, shape, cost, timeline_of(schedule, forward)).empty());
    CHECK(schedule.makespan <= justified);
    CHECK(validate(graph, {"", shape, schedule.order}).empty());
    CHECK(schedule.makespan <= std::accumulate(forward.duration.begin(), forward.duration.end(), 0.0) * (1 + 1e-12));
    const Timeline simulated = run(graph, {"", shape, schedule.order}, cost);
    CHECK(test::faults(graph, shape, cost, simulated).empty());
  }
}

TEST_CASE("Local search reaches the optimum of small problems", "[search]") {
  int optimal = 0, problems = 0;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Draw d(seed, 7);
    const LayerEmitter emitter(random_work(d, seed % 2 == 1), seed % 3 == 0 ? Phase::kForward : Phase::kBackward, 2);
    const CostModel cost = line_costs(0.2);
    double best = std::numeric_limits<double>::infinity();
    for (int r = 1; r <= 2; ++r)
      for (int pieces = 0; pieces <= (emitter.space().has_weight_grads ? r : 0); ++pieces) {
        Shape shape = emitter.space().base;
        shape.layers[0].forward_chunks = shape.layers[0].backward_chunks = r;
        shape.layers[0].weight_grad_pieces = pieces;
        const Graph graph = emitter.emit(shape);
        best = std::min(best, Exhaustive(Instance(graph, shape, cost)).best());
      }
    const SearchResult found = search_plan(emitter, cost, {}, {3e5, 0, 1});
    INFO("seed " << seed << ": optimum " << best << ", found " << found.price.total_us);
    CHECK(found.price.total_us >= best * (1 - 1e-9));
    CHECK(found.price.total_us <= best * 1.01);
    CHECK(emitter.bound_us(cost) <= best * (1 + 1e-9));
    CHECK(lower_bound_us(emitter, cost) <= best * (1 + 1e-9));
    ++problems;
    optimal += found.price.total_us <= best * (1 + 1e-9) ? 1 : 0;
  }
  CHECK(optimal >= problems - 2);
}

TEST_CASE("The one-machine bound is that of the best order with interruptions", "[bound]") {
  CHECK(one_machine_bound({}) == 0.0);
  CHECK(one_machine_bound(std::vector<BoundJob>{{1, 2, 3}}) == 6.0);
  // The long tail comes late and interrupts: [0, 2) job 1, [2, 3) job 2, [3, 6) job 1.
  CHECK(one_machine_bound(std::vector<BoundJob>{{0, 5, 0}, {2, 1, 4}}) == 7.0);
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    INFO("seed " << seed);
    Draw d(seed, 7);
    std::vector<BoundJob> jobs;
    for (int i = 0; i < 6; ++i)
      jobs.push_back({std::floor(d.real(0, 12)), 1.0 + d.below(5), std::floor(d.real(0, 12))});
    const double bound = one_machine_bound(jobs);
    std::vector<int> order(jobs.size());
    std::iota(order.begin(), order.end(), 0);
    double best = std::numeric_limits<double>::infinity();
    do {
      double now = 0.0, end = 0.0;
      for (const int j : order) {
        now = std::max(now, jobs[j].head) + jobs[j].load;
        end = std::max(end, now + jobs[j].tail);
      }
      best = std::min(best, end);
    } while (std::next_permutation(order.begin(), order.end()));
    CHECK(bound <= best);
    double floor = 0.0;  // every subset of the machine's jobs gives a bound too
    for (unsigned set = 1; set < (1U << jobs.size()); ++set) {
      double head = 1e9, load = 0.0, tail = 1e9;
      for (std::size_t j = 0; j < jobs.size(); ++j)
        if ((set >> j & 1U) != 0) {
          head = std::min(head, jobs[j].head);
          tail = std::min(tail, jobs[j].tail);
          load += jobs[j].load;
        }
      floor = std::max(floor, head + load + tail);
    }
    CHECK(bound == Approx(floor));  // Carlier 1982: Jackson's bound is the largest of these
  }
}

TEST_CASE("No plan is below the bound, whatever its cuts, order and streams", "[bound]") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    INFO("seed " << seed);
    Draw d(seed, 7);
    const auto check = [&](const Emitter& emitter, const CostModel& cost, double bound) {
      for (int i = 0; i < 6; ++i) {
        Shape shape = random_shape(emitter.space(), d);
        if (i % 3 == 2) shape.stream_of_resource = {0, 1, 1, 2};
        const Graph graph = emitter.emit(shape);
        const Instance instance(graph, shape, cost);
        ListScheduler lists;
        Schedule schedule;
        lists.run(instance, tails(instance), schedule);
        justify(lists, instance, instance.reversed(), 4, schedule);
        CHECK(schedule.makespan >= bound * (1 - 1e-9));
        CHECK(run(graph, {"", shape, random_order(graph, seed * 10 + i)}, cost).total_us >= bound * (1 - 1e-9));
        CHECK(emitter.shape_bound_us(shape, cost) <= schedule.makespan * (1 + 1e-9));
      }
    };
    StageTable table = small_table();
    for (StageTimes* t : {&table.forward, &table.backward})
      for (double* ms : {&t->all_to_all, &t->all_gather, &t->reduce_scatter, &t->expert, &t->attention})
        *ms *= d.real(0.3, 3.0);
    const StageEmitter steps(table, 1 + d.below(3), 1 + d.below(3));
    check(steps, steps.costs(), lower_bound_us(steps, steps.costs()));
    const CostModel cost = line_costs(0.2);
    const LayerEmitter layer(random_work(d, seed % 2 == 0), seed % 3 == 0 ? Phase::kForward : Phase::kBackward, 12);
    check(layer, cost, std::max(layer.bound_us(cost), lower_bound_us(layer, cost)));
  }
}

TEST_CASE("FSMoE's plan has the best of its degrees, and no less than its closed form", "[policy]") {
  for (std::uint64_t seed = 0; seed < 150; ++seed) {
    INFO("seed " << seed);
    Draw d(seed, 7);
    const LayerWork work = random_work(d, false);
    const Phase phase = seed % 2 == 0 ? Phase::kForward : Phase::kBackward;
    const LayerEmitter emitter(work, phase, 8);
    const CostModel cost = line_costs(0.1);
    double best = std::numeric_limits<double>::infinity();
    for (const int degree : {1, 2, 4, 8}) {
      PolicyOptions only;
      only.degrees = {degree};
      const double simulated = make_plan(PolicyKind::kFsMoe, emitter, cost, only).price.total_us;
      best = std::min(best, simulated);
      CHECK(simulated >= fsmoe_layer_us(work, phase, degree, cost) * (1 - 1e-9));
    }
    const PolicyPlan plan = make_plan(PolicyKind::kFsMoe, emitter, cost);
    CHECK(plan.price.total_us == best);
    CHECK(std::set<int>{1, 2, 4, 8}.contains(emitter.chunks(plan.plan.shape)));
  }
}

TEST_CASE("Weft is never slower than any other policy, and every policy's schedule is valid", "[policy]") {
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    INFO("seed " << seed);
    const StageEmitter emitter(small_table(), 1 + static_cast<int>(seed), 1 + static_cast<int>(seed) % 3);
    const CostModel cost = emitter.costs();
    PolicyOptions options;
    options.search.task_visits = 4e5;
    options.search.seed = seed + 1;
    const std::vector<PolicyPlan> plans = make_all_plans(emitter, cost, options);
    REQUIRE(plans.size() == kNumPolicies);
    const double bound = lower_bound_us(emitter, cost);
    for (std::size_t p = 0; p < plans.size(); ++p) {
      INFO(to_string(static_cast<PolicyKind>(p)));
      const Graph graph = emitter.emit(plans[p].plan.shape);
      CHECK(validate(graph, plans[p].plan).empty());
      const Timeline timeline = run(graph, plans[p].plan, cost);
      CHECK(test::faults(graph, plans[p].plan.shape, cost, timeline).empty());
      CHECK(timeline.total_us == Approx(plans[p].price.total_us));
      CHECK(plans.back().price.total_us <= plans[p].price.total_us);
      CHECK(timeline.total_us >= bound * (1 - 1e-9));
    }
    // FSMoE's own figure leaves out what of its first block's gradients cannot be hidden.
    const double closed =
        fsmoe_closed_form_ms(emitter.table(), 1 + static_cast<int>(seed), 1 + static_cast<int>(seed) % 3);
    const double planned = plans[static_cast<int>(PolicyKind::kFsMoe)].price.total_us / 1e3;
    CHECK(planned <= closed + emitter.table().backward.all_reduce + emitter.table().alpha_all_reduce);
    CHECK(planned >= 0.97 * closed);
    const auto again = make_all_plans(emitter, cost, options);
    CHECK(digest(again.back().plan) == digest(plans.back().plan));
  }
}

TEST_CASE("The search of a large step is not used up by the plans of others", "[policy]") {
  const StageEmitter emitter(small_table(), 96, 2);
  const CostModel cost = emitter.costs();
  PolicyOptions options;
  options.search.task_visits = 1.0;  // what is left grows with the step
  options.search.visits_per_task = 400.0;
  const std::vector<PolicyPlan> plans = make_all_plans(emitter, cost, options);
  double others = std::numeric_limits<double>::infinity();
  for (std::size_t p = 0; p + 1 < plans.size(); ++p) others = std::min(others, plans[p].price.total_us);
  INFO("weft " << plans.back().price.total_us << ", others " << others);
  CHECK(plans.back().num_candidates > 40);
  CHECK(plans.back().price.total_us < 0.9 * others);
}

TEST_CASE("The memory limit leaves plans out, and says what the smallest needs", "[policy]") {
  // Two independent chains with a buffer each: side by side they need both.
  class TwoChains final : public Emitter {
   public:
    TwoChains() { space_.base.layers.resize(1), space_.has_weight_grads = false; }
    const ShapeSpace& space() const override { return space_; }
    double gradient_bytes(int) const override { return 0.0; }
    Graph emit(const Shape&) const override {
      GraphBuilder b;
      for (int chain = 0; chain < 2; ++chain) {
        TaskSpec compute, comm;
        compute.work = comm.work = {WorkKind::kGemm, 100.0, 1.0};
        comm.resources = {Resource::kInter};
        const BufferId buffer = b.add_buffer({"b", MemoryClass::kActivations, 100, false, false});
        b.add_task(compute, {}, std::vector{buffer});
        b.add_task(comm, std::vector{buffer}, {});
      }
      return b.take();
    }

   private:
    ShapeSpace space_;
  };
  const TwoChains emitter;
  const CostModel cost = line_costs();
  const SearchResult free = search_plan(emitter, cost, {}, {1e4, 0, 1});
  const SearchResult tight =
      search_plan(emitter, cost, {sequential_plan(emitter.emit({}), emitter.space().base)}, {1e4, 100, 1});
  CHECK(free.price.memory_bytes == 200);
  CHECK(tight.price.memory_bytes == 100);
  CHECK(tight.price.total_us > free.price.total_us);
  try {
    static_cast<void>(search_plan(emitter, cost, {}, {1e4, 99, 1}));
    FAIL("a plan in no memory");
  } catch (const Error& e) {
    CHECK_THAT(e.message(), Catch::Contains("limit of 99 bytes"));
  }
}
