// Chunks of unequal sizes: never slower than equal ones, never below their bound, and the best at a fixed order.
#include "scheduler/unequal_chunks.h"

#include <algorithm>
#include <numeric>

#include "scheduler/instance.h"
#include "scheduler/search.h"
#include "scheduler/simulator.h"
#include "tests/support/catch.h"
#include "tests/support/draw.h"
#include "tests/support/random_plan.h"
#include "tests/support/schedule_checker.h"

using namespace weft;
using namespace weft::scheduler;
using test::Draw;

namespace {

CostModel line_costs() {
  CostModel c;
  for (int kind = 1; kind < kNumWorkKinds; ++kind) c.intra[kind] = c.inter[kind] = {0.2 * kind, 0.5};
  return c;
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

std::vector<double> random_shares(int n, Draw& d) {
  std::vector<double> shares;
  for (int i = 0; i < n; ++i) shares.push_back(d.below(4) == 0 ? 0.0 : d.real(0.0, 1.0));
  shares[static_cast<std::size_t>(d.below(n))] += 0.1;
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

double time_of(const Graph& graph, const Plan& plan, const CostModel& cost) {
  return simulate(graph, plan, assign_slots(graph, plan), cost, false).total_us;
}

double largest(const std::vector<std::vector<double>>& rows, const std::vector<double>& x) {
  double out = -1e300;
  for (const auto& row : rows) out = std::max(out, std::inner_product(row.begin(), row.end(), x.begin(), 0.0));
  return out;
}

}  // namespace

TEST_CASE("The largest of several lines is made smallest", "[unequal]") {
  CHECK(largest({{4, 1}, {2, 3}}, minimize_largest({{4, 1}, {2, 3}})) == Approx(2.5));  // x = (1/2, 1/2)
  for (const double share : minimize_largest({{0, 1, -1}, {-1, 0, 1}, {1, -1, 0}})) CHECK(share == Approx(1.0 / 3.0));
  CHECK(minimize_largest({{3, 1, 2}}) == std::vector<double>{0, 1, 0});
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    INFO("seed " << seed);
    Draw d(seed, 11);
    const int n = 1 + d.below(8);
    std::vector<std::vector<double>> rows(static_cast<std::size_t>(1 + d.below(20)));
    for (auto& row : rows)
      for (int i = 0; i < n; ++i) row.push_back(d.real(-5, 20));
    const std::vector<double> x = minimize_largest(rows);
    CHECK(std::accumulate(x.begin(), x.end(), 0.0) == Approx(1.0));
    CHECK(*std::min_element(x.begin(), x.end()) >= 0.0);
    // By duality: the value is also the largest that weights of the rows can hold the smallest column to.
    std::vector<std::vector<double>> columns(static_cast<std::size_t>(n));
    for (std::size_t j = 0; j < columns.size(); ++j)
      for (const auto& row : rows) columns[j].push_back(-row[j]);
    CHECK(largest(rows, x) == Approx(-largest(columns, minimize_largest(columns))).margin(1e-9));
  }
}

TEST_CASE("No schedule with chunks of unequal sizes is below their bound", "[unequal][bound]") {
  const CostModel cost = line_costs();
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    INFO("seed " << seed);
    Draw d(seed, 11);
    const LayerEmitter layer(random_work(d, seed % 4 == 0), seed % 2 == 0 ? Phase::kForward : Phase::kBackward, 12);
    const double bound = layer.unequal_bound_us(cost);
    CHECK(bound <= layer.bound_us(cost) * (1 + 1e-12));
    for (int i = 0; i < 20; ++i) {
      Shape shape = layer.space().base;
      const int r = 1 + d.below(12);
      shape.layers[0].forward_chunks = shape.layers[0].backward_chunks = r;
      shape.layers[0].weight_grad_pieces = seed % 2 == 0 ? 0 : d.below(r + 1);
      const Graph graph = layer.emit(shape, random_shares(r, d));
      const Instance instance(graph, shape, cost);
      ListScheduler lists;
      Schedule schedule;
      lists.run(instance, tails(instance), schedule);
      justify(lists, instance, instance.reversed(), 4, schedule);
      CHECK(schedule.makespan >= bound * (1 - 1e-9));
      CHECK(time_of(graph, {"", shape, test::random_order(graph, seed + i)}, cost) >= bound * (1 - 1e-9));
    }
  }
}

TEST_CASE("Unequal chunks are never slower than equal ones, and often faster", "[unequal]") {
  const CostModel cost = line_costs();
  int faster = 0, below_equal_bound = 0, several = 0;
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    INFO("seed " << seed);
    Draw d(seed, 11);
    const Phase phase = seed % 2 == 0 ? Phase::kForward : Phase::kBackward;
    const LayerEmitter layer(random_work(d, seed % 4 == 1), phase, 12);
    const SearchResult equal = search_plan(layer, cost, {}, {2e5, 0, 1});
    const UnequalPlan found = unequal_chunks(layer, cost, equal.plan);
    const int r = layer.chunks(found.plan.shape);
    REQUIRE(static_cast<int>(found.shares.size()) == r);
    CHECK(std::accumulate(found.shares.begin(), found.shares.end(), 0.0) == Approx(1.0));
    CHECK(*std::min_element(found.shares.begin(), found.shares.end()) >= 0.0);
    const Graph graph = layer.emit(found.plan.shape, found.shares);
    CHECK(validate(graph, found.plan).empty());
    const Timeline timeline = simulate(graph, found.plan, assign_slots(graph, found.plan), cost, false);
    CHECK(test::faults(graph, found.plan.shape, cost, timeline).empty());
    CHECK(timeline.total_us == found.total_us);
    CHECK(found.total_us <= equal.price.total_us * (1 + 1e-12));
    CHECK(found.total_us >= layer.unequal_bound_us(cost) * (1 - 1e-9));
    faster += found.total_us < equal.price.total_us * 0.999 ? 1 : 0;
    below_equal_bound += found.total_us < layer.bound_us(cost) * (1 - 1e-9) ? 1 : 0;
    const std::vector<int> pieces = weight_grad_cuts(r, found.plan.shape.layers[0].weight_grad_pieces);
    several += pieces.size() >= 3 && static_cast<int>(pieces.size()) <= r ? 1 : 0;
    // At the order found, no other sizes are better: the time is convex in them, so small steps say it all.
    for (int i = 0; i < r; ++i)
      for (int j = 0; j < r; ++j) {
        std::vector<double> other = found.shares;
        const double step = std::min(0.02, other[static_cast<std::size_t>(i)]);
        other[static_cast<std::size_t>(i)] -= step;
        other[static_cast<std::size_t>(j)] += step;
        CHECK(time_of(layer.emit(found.plan.shape, other), found.plan, cost) >= found.total_us * (1 - 2e-5));
      }
  }
  CHECK(several > 0);  // plans in which some piece of dW is of several chunks, but not all of them
  CHECK(faster > 6);
  CHECK(below_equal_bound > 0);  // so equal chunks' bound does not hold for them
}
