// Waits of the host: where they stand, what they hold up, and that they run on the thread that issues.
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "core/error.h"
#include "scheduler/order.h"
#include "scheduler/simulator.h"
#include "scheduler/stream_executor.h"
#include "tests/support/catch.h"
#include "tests/support/random_plan.h"

using namespace weft;
using namespace weft::scheduler;

namespace {

BufferSpec bytes(std::int64_t n) { return {"b", MemoryClass::kActivations, n, false, false}; }

TaskSpec spec(Resource resource, double us) {
  TaskSpec s;
  s.resources = {resource};
  s.work = {WorkKind::kMemory, us};
  return s;
}

CostModel one_us_per_byte() {
  CostModel c;
  c.intra[static_cast<int>(WorkKind::kGemm)] = {2.0, 0.5};
  c.intra[static_cast<int>(WorkKind::kMemory)] = {0.0, 1.0};
  c.inter = c.intra;
  return c;
}

}  // namespace

TEST_CASE("A host task runs on the calling thread, once what it depends on is done", "[executor]") {
  GraphBuilder b;
  const BufferId x = b.add_buffer(bytes(8)), counts = b.add_buffer(bytes(8)), rows = b.add_buffer(bytes(8));
  TaskSpec exchange, wait, dispatch;
  exchange.stage = Stage::kCountExchange;
  exchange.resources = dispatch.resources = {Resource::kInter};
  wait.stage = Stage::kHostWait;
  wait.resources = {Resource::kHost};
  b.add_task(exchange, std::vector{x}, std::vector{counts});
  b.add_task(wait, std::vector{counts}, std::vector{counts});
  b.add_task(dispatch, std::vector{counts}, std::vector{rows});
  b.add_task({}, {}, {});  // depends on nothing, but is issued after the wait
  const Graph graph = b.take();
  for (const std::uint8_t stream : {0, 1}) {  // on one stream too, the host is a thread of its own
    INFO("all but compute on stream " << int{stream});
    Shape shape;
    shape.stream_of_resource = {0, stream, stream, stream};
    const Plan plan = sequential_plan(graph, shape);
    const SlotMap slots = assign_slots(graph, plan);
    Arena arena({}, graph, slots);
    StreamExecutor executor({}, graph, plan, slots);
    std::vector<std::string> ran;  // the wait keeps the threads apart
    std::thread::id thread;
    bool fails = false, last = false;
    const std::vector<TaskBody> bodies{[&](TaskContext&) {
                                         std::this_thread::sleep_for(std::chrono::milliseconds(20));
                                         if (fails) throw Error(ErrorCode::kComm, "rank 2 is gone");
                                         ran.emplace_back("exchange");
                                       },
                                       [&](TaskContext&) {
                                         ran.emplace_back("wait");
                                         thread = std::this_thread::get_id();
                                       },
                                       [&](TaskContext&) { ran.emplace_back("dispatch"); },
                                       [&](TaskContext&) { last = true; }};
    const Timeline timeline = executor.run(bodies, arena);
    CHECK(ran == std::vector<std::string>{"exchange", "wait", "dispatch"});
    CHECK(thread == std::this_thread::get_id());
    CHECK(timeline.start_us[3] >= timeline.end_us[1]);
    fails = true;
    last = false;
    ran.clear();
    try {
      executor.run(bodies, arena);
      FAIL("no error");
    } catch (const Error& e) {
      CHECK(e.message() == "count_exchange(forward): rank 2 is gone");
    }
    CHECK(ran.empty());
    CHECK(!last);  // what stands behind a wait that fails is not issued
    fails = false;
    static_cast<void>(executor.run(bodies, arena));  // the error is cleared
    CHECK(last);
  }
}

TEST_CASE("Host waits are issued just before what needs them", "[plan]") {
  int faster = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    INFO("seed " << seed);
    Graph graph = test::random_graph(seed, 60, true);
    for (Task& task : graph.tasks)
      if (task.resources.has(Resource::kHost)) task.work.kind = WorkKind::kNothing;  // what holds the host is waiting
    const auto waits = [&](TaskId t) { return graph.tasks[t].resources.has(Resource::kHost); };
    Plan early{"random", {}, test::random_order(graph, seed)}, late = early;
    issue_host_waits_late(graph, late.issue_order);
    CHECK(validate(graph, late).empty());
    const auto others = [&](std::vector<TaskId> order) {
      std::erase_if(order, waits);
      return order;
    };
    CHECK(others(early.issue_order) == others(late.issue_order));
    CostModel cost = one_us_per_byte();
    cost.machine.issue_us = 3.0;
    const SlotMap no_slots{std::vector<std::int32_t>(graph.buffers.size(), kNoId), {}, {}};
    const double before = simulate(graph, early, no_slots, cost, false).total_us,
                 after = simulate(graph, late, no_slots, cost, false).total_us;
    CHECK(after <= before * (1 + 1e-12));
    faster += after < before ? 1 : 0;
  }
  CHECK(faster > 10);
}

TEST_CASE("The host adds what issuing and its waits hold up", "[simulator]") {
  GraphBuilder b;
  const BufferId counts = b.add_buffer({"counts", MemoryClass::kCommunication, 8, false, true});
  b.add_task(spec(Resource::kInter, 10), {}, std::vector{counts});                 // exchange
  b.add_task(spec(Resource::kHost, 1), std::vector{counts}, std::vector{counts});  // wait
  b.add_task(spec(Resource::kCompute, 20), {}, {});                                // other work, issued behind it
  b.add_task(spec(Resource::kInter, 5), std::vector{counts}, {});                  // what needs the counts
  const Graph graph = b.take();
  Plan plan = sequential_plan(graph, {});
  const SlotMap slots = assign_slots(graph, plan);
  CostModel cost = one_us_per_byte();
  cost.machine.issue_us = 2.0;
  CHECK(num_host_waits(graph) == 1);
  CHECK(simulate(graph, plan, slots, cost, false).total_us == 2 + 10 + 1 + 2 + 20);
  CHECK(simulate_with_free_host(graph, plan, slots, cost, false).total_us == 20);
  issue_host_waits_late(graph, plan.issue_order);
  CHECK(plan.issue_order == std::vector<TaskId>{0, 2, 1, 3});
  CHECK(simulate(graph, plan, slots, cost, false).total_us == 4 + 20);  // the exchange and the wait lie beside the work
  CHECK(simulate_with_free_host(graph, plan, slots, cost, false).total_us == 20);
}
