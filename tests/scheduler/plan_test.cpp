#include "scheduler/plan.h"

#include <algorithm>
#include <array>
#include <set>

#include "core/error.h"
#include "scheduler/cost_model.h"
#include "scheduler/executor.h"
#include "scheduler/order.h"
#include "scheduler/simulator.h"
#include "scheduler/stream_executor.h"
#include "tests/support/catch.h"
#include "tests/support/random_plan.h"

using namespace weft;
using namespace weft::scheduler;
using test::random_graph;
using test::random_order;

namespace {

BufferSpec bytes(std::int64_t n) { return {"b", MemoryClass::kActivations, n, false, false}; }

CostModel costs() {
  CostModel c;
  c.intra[static_cast<int>(WorkKind::kGemm)] = {2.0, 0.5};
  c.intra[static_cast<int>(WorkKind::kMemory)] = {1.0, 0.1};
  c.inter = c.intra;
  return c;
}

/// Runs the program on numbers: a task mixes what it reads into what it writes. What a slot holds before is garbage.
std::vector<double> run_on_numbers(const Graph& graph, const Plan& plan,
                                   ExecutorKind executor = ExecutorKind::kInline) {
  const SlotMap slots = assign_slots(graph, plan);
  Arena arena({}, graph, slots);
  std::vector<double> results(graph.tasks.size());
  std::vector<char> written(graph.buffers.size(), 0);  // bytes: streams write neighbours at once
  std::vector<TaskBody> bodies;
  for (TaskId t = 0; t < graph.num_tasks(); ++t)
    bodies.push_back([&, t](TaskContext& c) {
      double value = t + 1.0;
      for (const BufferId b : graph.reads(t))
        if (written[b] != 0) value += 0.5 * *c.arena.require<double>(c.stream, b, 1);
      for (const BufferId b : graph.writes(t)) {
        double* at = c.arena.require<double>(c.stream, b, 1);
        *at = value + (written[b] != 0 ? 0.25 * *at : 0.0);
        written[b] = 1;
        value = *at;
      }
      results[t] = value;
    });
  if (executor == ExecutorKind::kInline)
    execute_inline(graph, plan, bodies, arena, *make_inline_stream(),
                   *make_stream_clock({}, num_points(graph.num_tasks())));
  else
    StreamExecutor({}, graph, plan, slots).run(bodies, arena);
  return results;
}

}  // namespace

TEST_CASE("Edges follow from what tasks read and write", "[graph]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer(bytes(8)), y = b.add_buffer(bytes(8));
  const auto task = [&](std::initializer_list<BufferId> reads, std::initializer_list<BufferId> writes) {
    return b.add_task({}, std::vector<BufferId>(reads), std::vector<BufferId>(writes));
  };
  const TaskId write = task({}, {x}), read1 = task({x}, {y}), read2 = task({x}, {}), again = task({}, {x}),
               last = task({x, y}, {});
  const auto deps = [&](TaskId t) {
    const auto d = b.graph().dependencies(t);
    return std::set<TaskId>(d.begin(), d.end());
  };
  CHECK(deps(write).empty());
  CHECK(deps(read1) == std::set<TaskId>{write});
  CHECK(deps(read2) == std::set<TaskId>{write});
  CHECK(deps(again) == std::set<TaskId>{write, read1, read2});
  CHECK(deps(last) == std::set<TaskId>{again, read1});
}

TEST_CASE("At most so many micro-batches are in flight in any order", "[graph]") {
  GraphBuilder builder;
  TaskSpec spec;
  for (int m = 0; m < 4; ++m) {
    spec.micro_batch = static_cast<std::int16_t>(m);
    const BufferId a = builder.add_buffer(bytes(8)), b = builder.add_buffer(bytes(8));
    builder.add_task(spec, {}, std::vector{a});
    builder.add_task(spec, std::vector{a}, std::vector{b});  // two ends
    builder.add_task(spec, std::vector{a}, {});
  }
  for (const int limit : {0, 1, 2, 3}) {
    Graph graph = builder.graph();
    limit_in_flight(graph, limit);
    int most = 0;
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      std::array<int, 4> done{};
      for (const TaskId t : random_order(graph, seed)) {
        ++done[graph.tasks[t].micro_batch];
        most =
            std::max(most, static_cast<int>(std::count_if(done.begin(), done.end(), [](int n) { return n % 3 > 0; })));
      }
    }
    INFO("limit " << limit);
    CHECK(most == (limit == 0 ? 4 : limit));
  }
}

TEST_CASE("validate names what is wrong with a plan", "[plan]") {
  const Graph graph = random_graph(1, 20);
  Plan plan = sequential_plan(graph, {});
  CHECK(validate(graph, plan).empty());
  SECTION("a reversed order breaks edges") {
    std::reverse(plan.issue_order.begin(), plan.issue_order.end());
    CHECK(!validate(graph, plan).empty());
  }
  SECTION("a missing task") {
    plan.issue_order.pop_back();
    CHECK(validate(graph, plan).size() == 2);
  }
  SECTION("a task twice") {
    plan.issue_order[3] = plan.issue_order[4];
    CHECK_THAT(validate(graph, plan)[0], Catch::Contains("twice"));
  }
  SECTION("an unknown task") {
    plan.issue_order[0] = 99;
    CHECK_THAT(validate(graph, plan)[0], Catch::Contains("99"));
  }
}

TEST_CASE("Slots never hold two live buffers, in any order", "[plan]") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    INFO("seed " << seed);
    const Graph graph = random_graph(seed, 60);
    const std::int32_t rests[] = {0, 5, 1000};
    const Plan plan{"random", {}, random_order(graph, seed), rests[seed % 3]};
    REQUIRE(validate(graph, plan).empty());
    const SlotMap map = assign_slots(graph, plan);
    std::vector<int> first(graph.buffers.size(), -1), last(graph.buffers.size(), -1);
    for (int i = 0; i < graph.num_tasks(); ++i)
      for (const auto accesses : {graph.reads(plan.issue_order[i]), graph.writes(plan.issue_order[i])})
        for (const BufferId b : accesses) {
          if (first[b] < 0) first[b] = i;
          last[b] = i;
        }
    std::int64_t live_peak = 0, all = 0, slots = 0;
    for (std::size_t a = 0; a < first.size(); ++a) {
      if (first[a] < 0) continue;
      REQUIRE(map.slot_of_buffer[a] != kNoId);
      CHECK(map.slot_bytes[map.slot_of_buffer[a]] >= graph.buffers[a].bytes);
      all += graph.buffers[a].bytes;
      for (std::size_t b = 0; b < a; ++b)
        if (map.slot_of_buffer[a] == map.slot_of_buffer[b] && first[b] >= 0)
          CHECK((last[a] < first[b] || last[b] < first[a]));
    }
    for (int i = 0; i < graph.num_tasks(); ++i) {
      std::int64_t live = 0;
      for (std::size_t b = 0; b < first.size(); ++b)
        if (first[b] >= 0 && first[b] <= i && i <= last[b]) live += graph.buffers[b].bytes;
      live_peak = std::max(live_peak, live);
    }
    for (const std::int64_t s : map.slot_bytes) slots += s;
    CHECK(slots >= live_peak);
    CHECK(slots <= all);
  }
}

TEST_CASE("Slots that rest tie no streams together", "[plan]") {
  std::int64_t reused = 0;
  double tied = 0.0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    INFO("seed " << seed);
    const Graph graph = random_graph(seed, 60);
    Plan plan{"random", {}, random_order(graph, seed), 1000};
    const SlotMap none{std::vector<std::int32_t>(graph.buffers.size(), kNoId), {}, {}}, map = assign_slots(graph, plan);
    const double free_us = simulate(graph, plan, none, costs(), false).total_us;
    CHECK(simulate(graph, plan, map, costs(), false).total_us == Approx(free_us));
    reused += static_cast<std::int64_t>(map.reuse_edges.size());
    plan.slot_rest = 0;
    tied += simulate(graph, plan, assign_slots(graph, plan), costs(), false).total_us - free_us;
    plan.shape.stream_of_resource.fill(0);  // one stream: nothing to tie
    plan.slot_rest = 1000;
    const SlotMap rested = assign_slots(graph, plan);
    plan.slot_rest = 0;
    CHECK(rested.slot_bytes == assign_slots(graph, plan).slot_bytes);
  }
  CHECK(reused > 0);  // memory is shared all the same
  CHECK(tied > 0.0);  // and without rest, it costs time
}

TEST_CASE("Every order of a program, in every executor, gives the same numbers", "[plan][executor]") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    INFO("seed " << seed);
    const Graph graph = random_graph(seed, 50, seed % 2 == 1);
    const std::vector<double> expected = run_on_numbers(graph, sequential_plan(graph, {}));
    for (std::uint64_t order = 0; order < 3; ++order)
      for (const ExecutorKind executor : {ExecutorKind::kInline, ExecutorKind::kStreams})
        for (const std::int32_t rest : {0, 8, 1000})
          CHECK(run_on_numbers(graph, {"random", {}, random_order(graph, 100 * seed + order), rest}, executor) ==
                expected);
  }
}

TEST_CASE("A simulated step lies between its bounds", "[simulator]") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    INFO("seed " << seed);
    const Graph graph = random_graph(seed, 80);
    const Plan plan{"random", {}, random_order(graph, seed)};
    const SlotMap slots = assign_slots(graph, plan);
    const Timeline streams = simulate(graph, plan, slots, costs(), false),
                   single = simulate(graph, plan, slots, costs(), true);
    double sum = 0.0, loads[3] = {};
    for (TaskId t = 0; t < graph.num_tasks(); ++t) {
      const double cost = costs().cost_us(graph.tasks[t]);
      sum += cost;
      for (int r = 0; r < 3; ++r)
        if (graph.tasks[t].resources.has(static_cast<Resource>(r))) loads[r] += cost;
      CHECK(streams.end_us[t] == Approx(streams.start_us[t] + cost));
      for (const TaskId d : graph.dependencies(t)) CHECK(streams.start_us[t] >= streams.end_us[d]);
    }
    CHECK(single.total_us == Approx(sum));
    CHECK(streams.total_us <= sum * (1 + 1e-12));
    CHECK(streams.total_us >= *std::max_element(loads, loads + 3) * (1 - 1e-12));
  }
}

TEST_CASE("Exposed communication is what no computation hides", "[executor]") {
  GraphBuilder b;
  TaskSpec comm;
  comm.resources = {Resource::kInter};
  for (int i = 0; i < 2; ++i) {
    b.add_task({}, {}, {});
    b.add_task(comm, {}, {});
  }
  TaskSpec host;
  host.resources = {Resource::kHost};
  b.add_task(host, {}, {});      // [0, 9]: no communication
  const Graph graph = b.take();  // compute, comm, compute, comm, host
  CHECK(exposed_comm_us(graph, {{0, 2, 6, 3, 0}, {4, 5, 8, 9, 9}, 9}) == Approx(2 + 1));  // [4, 6] and [8, 9]
  CHECK(exposed_comm_us(graph, {{0, 4, 5, 7, 0}, {4, 5, 7, 9, 9}, 9}) == Approx(1 + 2));  // one after the other
  CHECK(exposed_comm_us(graph, {{0, 1, 5, 6, 0}, {4, 3, 9, 8, 9}, 9}) == Approx(0));
}

TEST_CASE("Overlap of streams, pair by pair", "[executor]") {
  GraphBuilder b;
  for (const Resource r : {Resource::kCompute, Resource::kIntra, Resource::kInter, Resource::kCompute}) {
    TaskSpec spec;
    spec.resources = {r};
    if (r == Resource::kInter) spec.resources.add(Resource::kIntra);  // one that holds both links
    b.add_task(spec, {}, {});
  }
  const Graph graph = b.take();
  const auto overlap = overlap_us(graph, {{0, 1, 3, 6}, {4, 2, 7, 9}, 9});
  CHECK(overlap[0][0] == Approx(4 + 3));
  CHECK(overlap[1][1] == Approx(1 + 4));
  CHECK(overlap[2][2] == Approx(4));
  CHECK(overlap[0][1] == Approx(1 + 1 + 1));  // [1, 2], [3, 4], [6, 7]
  CHECK(overlap[0][2] == Approx(1 + 1));
  CHECK(overlap[1][2] == 0);  // the two that use links run one after the other
  CHECK(overlap[2][1] == overlap[1][2]);
}

TEST_CASE("The time in which no stream has a task", "[executor]") {
  GraphBuilder b;
  for (const Resource r : {Resource::kCompute, Resource::kIntra, Resource::kCompute, Resource::kHost}) {
    TaskSpec spec;
    spec.resources = {r};
    b.add_task(spec, {}, {});
  }
  const Graph graph = b.take();
  // [1, 6] and inside it [2, 3], then [8, 9]; the host waits in [6, 8], and is at it before and after
  const StreamUse use = stream_use(graph, {{1, 2, 8, 0}, {6, 3, 9, 10}, 10});
  CHECK(use.span_us == Approx(8));
  CHECK(use.idle_us == Approx(2));
  CHECK(stream_use(graph, {{0, 2, 1, 0}, {1, 3, 2, 3}, 3}).idle_us == Approx(0));  // one after the other
  CHECK(stream_use({}, {}).span_us == 0);
}

TEST_CASE("Streams carry a task's error past the tasks that depend on it", "[executor]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer(bytes(8)), y = b.add_buffer(bytes(8));
  TaskSpec comm;
  comm.stage = Stage::kDispatch;
  comm.resources = {Resource::kIntra};
  b.add_task(comm, {}, std::vector{x});
  b.add_task({}, std::vector{x}, std::vector{y});
  const Graph graph = b.take();
  const Plan plan = sequential_plan(graph, {});
  const SlotMap slots = assign_slots(graph, plan);
  Arena arena({}, graph, slots);
  bool second = false;
  int runs = 0;
  const std::vector<TaskBody> bodies{[&](TaskContext&) {
                                       if (runs++ == 0) throw Error(ErrorCode::kComm, "rank 2 is gone");
                                     },
                                     [&](TaskContext&) { second = true; }};
  StreamExecutor executor({}, graph, plan, slots);
  CHECK(executor.num_streams() == 2);
  CHECK(executor.num_crossings() == 1);
  try {
    executor.run(bodies, arena);
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(e.message() == "dispatch(forward): rank 2 is gone");
  }
  CHECK(!second);
  executor.run(bodies, arena);  // the error is cleared: the next step runs
  CHECK(second);
}

TEST_CASE("A task's error carries its name and stops the step", "[executor]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer(bytes(8));
  TaskSpec spec;
  spec.stage = Stage::kExpert;
  spec.layer = 3;
  b.add_task(spec, {}, std::vector{x});
  b.add_task({}, std::vector{x}, {});
  const Graph graph = b.take();
  const Plan plan = sequential_plan(graph, {});
  Arena arena({}, graph, assign_slots(graph, plan));
  bool second = false;
  const std::vector<TaskBody> bodies{
      [](TaskContext&) { throw Error(ErrorCode::kComm, "rank 2 is gone", "start again"); },
      [&](TaskContext&) { second = true; }};
  try {
    execute_inline(graph, plan, bodies, arena, *make_inline_stream(),
                   *make_stream_clock({}, num_points(graph.num_tasks())));
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(e.code() == ErrorCode::kComm);
    CHECK(e.message() == "expert(forward) layer 3: rank 2 is gone");
    CHECK(e.hint() == "start again");
  }
  CHECK(!second);
}

TEST_CASE("An elastic buffer grows and is counted", "[arena]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer({"rows", MemoryClass::kActivations, 16, true, false});
  b.add_task({}, {}, std::vector{x});
  const Graph graph = b.take();
  Arena arena({}, graph, assign_slots(graph, Plan{"", {}, {0}}));
  const auto stream = make_inline_stream();
  CHECK(arena.bytes() == 16);
  static_cast<void>(arena.require<double>(*stream, x, 2));
  CHECK(arena.num_grows() == 0);
  double* big = arena.require<double>(*stream, x, 1000);
  big[999] = 1.0;
  CHECK(arena.num_grows() == 1);
  CHECK(arena.bytes() >= 8000);
  CHECK_THROWS_AS(arena.require<double>(*stream, x, std::int64_t{1} << 50), Error);
}

TEST_CASE("The digest tells plans apart", "[plan]") {
  const Graph graph = random_graph(5, 30);
  const Plan plan = sequential_plan(graph, {{LayerShape{}}, {1}});
  Plan other = plan;
  CHECK(digest(plan) == digest(other));
  other.shape.layers[0].forward_chunks = 2;
  CHECK(digest(plan) != digest(other));
  other = plan;
  std::swap(other.issue_order[0], other.issue_order[1]);
  CHECK(digest(plan) != digest(other));
  other = plan;
  other.slot_rest = 8;
  CHECK(digest(plan) != digest(other));
  other = plan;
  other.shape.padded = true;
  CHECK(digest(plan) != digest(other));
}

TEST_CASE("A plan survives being packed", "[plan]") {
  Plan plan{"weft", {}, {}, 64, {"ranks = 4", ""}};
  plan.shape.layers = {{3, 5, 2, Recompute::kFull, {0.25, 0.75}}, {}};
  plan.shape.sub_batches = {2, 1};
  plan.shape.micro_batches_in_flight = 2;
  plan.shape.stream_of_resource = {0, 1, 1, 2};
  plan.shape.imbalance_limit = 1.5;
  plan.shape.padded = true;
  plan.issue_order = random_order(random_graph(3, 40), 5);
  plan.memory_limit_bytes = 5'000'000'000;
  plan.peak_memory_bytes = 4'900'000'000;
  const std::vector<std::int64_t> numbers = pack(plan);
  const Plan back = unpack(numbers);
  CHECK(back.policy == plan.policy);
  CHECK(back.shape == plan.shape);
  CHECK(back.issue_order == plan.issue_order);
  CHECK(back.made_for == plan.made_for);
  CHECK(back.memory_limit_bytes == plan.memory_limit_bytes);
  CHECK(back.peak_memory_bytes == plan.peak_memory_bytes);
  for (std::size_t n = 0; n < numbers.size(); n += 7) CHECK_THROWS_AS(unpack(std::span(numbers).first(n)), Error);
}
