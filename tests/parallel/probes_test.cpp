#include "parallel/train/probes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "comm/factory.h"
#include "core/error.h"
#include "core/gpu_info.h"
#include "parallel/train/probe_links.h"
#include "parallel/train/probe_step.h"
#include "parallel/train/run_setup.h"
#include "tests/support/catch.h"
#include "tests/support/devices.h"
#include "tests/support/environment.h"
#include "tests/support/errors.h"
#include "tools/config/schedule_files.h"

using namespace weft;
using namespace weft::parallel;

namespace {

RunConfig tiny(int expert) {
  RunConfig c;
  c.model.layers = 2;
  c.model.model_dim = 16;
  c.model.expert_hidden_dim = 24;
  c.model.heads = c.model.kv_heads = 2;
  c.model.vocab_size = 31;
  c.model.layer_pattern = "DM";
  c.model.moe.experts = 4;
  c.train.global_batch = 8;
  c.train.micro_batch = 2;
  c.train.sequence_length = 16;
  c.parallel.expert = expert;
  return c;
}

constexpr Device kGpu{DeviceKind::kCuda, 0};

Profile profile_of(const RunConfig& config, int ranks, int ranks_per_node, Device device = {}) {
  Profile out;
  comm::run_local_ranks(ranks, [&](comm::Communicator& world) {
    Profile mine =
        measure_profile(config, world, {.ranks_per_node = ranks_per_node, .device = device, .time_limit_s = 0.1});
    if (world.rank() == 0) out = std::move(mine);
  });
  return out;
}

}  // namespace

TEST_CASE("A profile prices every task of the step that it was made for", "[probes]") {
  const struct { int ranks, expert, ranks_per_node; } cases[] = {{1, 1, 1}, {4, 2, 4}, {4, 4, 2}};
  for (const auto& [ranks, expert, ranks_per_node] : cases) {
    if (test::kSanitized && ranks == 1) continue;
    INFO(ranks << " ranks, EP " << expert << ", " << ranks_per_node << " a node");
    const RunConfig config = tiny(expert);
    const Profile profile = profile_of(config, ranks, ranks_per_node);
    const Mesh mesh = make_mesh(ranks, 0, mesh_options(config, ranks_per_node));
    const scheduler::Graph graph = emit_step(training_spec(config, mesh, {}), training_shape(config), DType::kF32);
    CHECK(unpriced(graph, profile.cost).empty());
    CHECK(profile.stretch >= 1.0);
    CHECK(profile.num_runs == static_cast<int>(profile.rank_loads.size()));
    for (const scheduler::Family& f : profile.cost.families()) {
      INFO(name_of(f.key));
      CHECK(!f.fit.samples.empty());
      CHECK(f.fit.cost.alpha_us >= 0.0);
      CHECK(f.fit.cost.beta_us >= 0.0);
      for (const scheduler::Sample& s : f.fit.samples) CHECK(s.time_us >= 0.0);
    }
    for (const auto& row : profile.cost.machine.contention)
      for (const double factor : row) CHECK(factor >= 1.0);
    CHECK(profile.cost.machine.issue_us > 0.0);
    const auto has = [&](scheduler::WorkKind work, scheduler::LinkClass link) {
      return std::any_of(profile.cost.kinds().begin(), profile.cost.kinds().end(),
                         [&](const scheduler::KindFit& k) { return k.work == work && k.link == link && !k.pooled; });
    };
    CHECK(has(WorkKind::kAllToAll, scheduler::LinkClass::kIntra) == (ranks > 1 && ranks_per_node == 4));
    CHECK(has(WorkKind::kAllReduce, scheduler::LinkClass::kBoth) == (ranks_per_node == 2));
  }
}

TEST_CASE("A profile prices padding where a step has capacities", "[probes]") {
  RunConfig config = tiny(2);
  config.model.moe.capacity_factor = 1.25;
  const auto measure = [&](CapacityPadding choice, double time_limit_s) {
    config.schedule.pad_capacity = choice;
    Profile profile;
    comm::run_local_ranks(2, [&](comm::Communicator& world) {
      Profile mine = measure_profile(config, world, {.ranks_per_node = 2, .time_limit_s = time_limit_s});
      if (world.rank() == 0) profile = std::move(mine);
    });
    return profile;
  };
  const auto prices = [](const Profile& profile, std::string_view label) {  // rows on their way back to their tokens
    const auto& families = profile.cost.families();
    return std::any_of(families.begin(), families.end(), [&](const scheduler::Family& f) {
      return f.key.stage == scheduler::Stage::kIOrder && f.key.label == label;
    });
  };
  const Profile both = measure(CapacityPadding::kAuto, 60.0);  // it ends long before
  CHECK(prices(both, ""));
  CHECK(prices(both, "slots"));
  CHECK_FALSE(prices(measure(CapacityPadding::kNever, 0.1), "slots"));
  CHECK_FALSE(prices(measure(CapacityPadding::kAlways, 0.1), ""));
}

TEST_CASE("A profile measured on a GPU plans the steps that run there", "[probes][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  const struct { int ranks, expert, ranks_per_node; } cases[] = {{1, 1, 1}, {2, 2, 2}, {4, 2, 2}};
  for (const auto& [ranks, expert, ranks_per_node] : cases) {
    INFO(ranks << " ranks, EP " << expert << ", " << ranks_per_node << " a node");
    RunConfig config = tiny(expert);
    config.schedule.policy = SchedulePolicy::kTutel;
    const Profile profile = profile_of(config, ranks, ranks_per_node, kGpu);
    CHECK(profile.stretch == 1.0);
    CHECK(profile.wait_us == 0.0);
    CHECK(profile.cost.machine.host_apart);
    CHECK(profile.cost.machine.ranks_per_core == 1.0);
    CHECK(profile.cost.machine.issue_us > 0.0);
    for (const scheduler::Family& f : profile.cost.families())
      for (const scheduler::Sample& s : f.fit.samples) {
        INFO(name_of(f.key));
        CHECK(s.time_us > 0.0);
      }
    const std::string text = tools::costs_to_text(
        profile.cost, profile.rank_loads,
        tools::Measurement{.ranks = ranks, .ranks_per_node = ranks_per_node, .device = kGpu.kind, .device_name = "a"});
    const scheduler::CostModel read =
        tools::costs_from_text(text, "a test", -1e9);  // an emulated GPU's times are noise
    const RunPlan plan = plan_run(config, ranks, 0, ranks_per_node, read);
    CHECK(plan.num_host_waits > 0);
    CHECK(plan.predicted_ms > 0.0);
  }
}

TEST_CASE("A profile of a GPU takes its memory there", "[probes][gpu]") {
  WEFT_NEED_DEVICE(DeviceKind::kCuda);
  if (gpu_info(kGpu).name != "an emulated GPU") WEFT_SKIP("the size of a real GPU is not the test's to choose");
  const auto used = [] { return gpu_info(kGpu).total_bytes - gpu_info(kGpu).free_bytes; };
  const std::int64_t before = used();
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    const RunConfig config = tiny(1);
    const Mesh mesh = make_mesh(1, 0, mesh_options(config, 1));
    const MeshComms comms(world, mesh, kGpu);
    const StepSpec spec = training_spec(config, mesh, costs_on(kGpu, {}).machine);
    const ParameterTable table(spec.model, mesh);
    ParameterStore<float> store(table, kGpu, true);
    initialize_weights(store, spec.model, 1);
    const std::int64_t weights = used();
    CHECK(weights - before >= count_parameters(spec.model).total * 4);
    StepProbe<float> probe(spec, {}, scheduler::Recompute::kNone, comms, store, {}, kGpu);
    CHECK(used() > weights);  // its arena
    const StepTimes times = probe.run(ProbeClock(world, 1));
    CHECK(times.step_us > 0.0);
    CHECK(std::any_of(probe.graph().tasks.begin(), probe.graph().tasks.end(),
                      [](const scheduler::Task& task) { return task.stage == Stage::kHostWait; }));
  });
  const test::ScopedVariable smaller("WEFT_EMULATION_MEMORY", "20000");
  test::check_error(ErrorCode::kOutOfMemory, "on GPU 0", [&] { static_cast<void>(profile_of(tiny(1), 1, 1, kGpu)); });
}

TEST_CASE("A family is measured at four sizes", "[probes]") {
  RunConfig config = tiny(1);
  config.model.layers = 8;
  config.train.micro_batch = GENERATE(1, 8);
  INFO("micro-batches of " << config.train.micro_batch);
  Profile profile;
  comm::run_local_ranks(
      1, [&](comm::Communicator& world) { profile = measure_profile(config, world, {.time_limit_s = 60.0}); });
  std::string few;
  for (const scheduler::Family& f : profile.cost.families())
    if (f.key.stage != Stage::kOptimizer &&
        scheduler::num_sizes(f.fit.samples) < 4)  // its tasks are what the model has
      few += str(name_of(f.key), ": ", scheduler::num_sizes(f.fit.samples), "\n");
  CHECK(few == "");
}

TEST_CASE("Bare collectives are probed at four sizes, and at more where there is time", "[probes]") {
  comm::run_local_ranks(2, [&](comm::Communicator& world) {
    const Mesh mine = make_mesh(2, world.rank(), mesh_options(tiny(2), 2));
    const MeshComms comms(world, mine);
    const ProbeClock clock(world, 2);
    const auto sizes = [&](double time_limit_s) {
      std::set<double> amounts;
      for (const auto& [key, sample] : probe_collectives(comms, mine, clock, 1, time_limit_s))
        if (key.work == WorkKind::kSendRecv) amounts.insert(sample.amount);
      return amounts;
    };
    CHECK(sizes(0.0) == std::set<double>{1024, 4096, 16384, 65536});
    CHECK(sizes(1e9).size() == 7);
  });
}

TEMPLATE_TEST_CASE("Contention is 1 where there is nothing to contend with, and the same on every rank", "[probes]",
                   float, BF16) {
  const int ranks_per_node = GENERATE(1, 2, 4);  // all between nodes, both, all inside one
  INFO(ranks_per_node << " ranks a node");
  std::array<std::array<std::array<double, 3>, 3>, 4> seen{};
  comm::run_local_ranks(4, [&](comm::Communicator& world) {
    const Mesh mesh = make_mesh(4, world.rank(), mesh_options(tiny(2), ranks_per_node));
    seen[static_cast<std::size_t>(world.rank())] = probe_contention<TestType>(MeshComms(world, mesh), mesh, 64, 96, 1);
  });
  for (const auto& of_rank : seen) CHECK(of_rank == seen[0]);
  const bool has[] = {true, ranks_per_node > 1, ranks_per_node < 4};
  for (std::size_t i = 0; i < 3; ++i)
    for (std::size_t j = 0; j < 3; ++j) {
      CHECK(seen[0][i][j] >= 1.0);
      if (i == j || !has[i] || !has[j]) CHECK(seen[0][i][j] == 1.0);
    }
}

TEST_CASE("Task times are condensed by family and size", "[probes]") {
  scheduler::GraphBuilder b;
  const auto add = [&](Stage stage, scheduler::ResourceSet resources, WorkKind kind, double amount) {
    TaskSpec spec;
    spec.stage = stage;
    spec.resources = resources;
    spec.work = {kind, amount};
    b.add_task(spec, {}, {});
  };
  add(Stage::kExpert, {Resource::kCompute}, WorkKind::kGroupedGemm, 100.0);
  add(Stage::kExpert, {Resource::kCompute}, WorkKind::kGroupedGemm, 100.0);
  add(Stage::kDispatch, {Resource::kIntra}, WorkKind::kAllToAll, 64.0);
  add(Stage::kOrder, {Resource::kCompute}, WorkKind::kNothing, 0.0);
  const scheduler::Graph graph = b.take();
  b = {};
  add(Stage::kExpert, {Resource::kCompute}, WorkKind::kGroupedGemm, 100.0);
  for (int i = 0; i < 3; ++i) add(Stage::kDispatch, {Resource::kIntra}, WorkKind::kAllToAll, 64.0);
  const scheduler::Graph smaller = b.take();
  comm::run_local_ranks(2, [&](comm::Communicator& world) {
    TaskTimes times;
    const int step = times.add_step(graph, world), half = times.add_step(smaller, world);
    const double mine = world.rank() == 0 ? 10.0 : 20.0;
    for (int run = 0; run < 10; ++run) {
      const double noise = run == 4 ? 1000.0 : 0.0;  // one run in ten: cut off
      times.add(step, {{mine + noise, mine, 7.0, 1e9}, 3.0 * 40.0 + 7.0 + 5.0, 1.0});
      times.add(half, {{20.0, 7.0, 7.0, 7.0}, 3.0 * 20.0 + 3.0 * (7.0 + 5.0), 1.0});
    }
    const std::vector<scheduler::TaskSample> samples = times.samples(world);
    REQUIRE(samples.size() == 2);
    // Two ranks a core: what they compute takes 1 + u^2 times its CPU time, u the share of the step.
    TaskTimes shared;
    const int other = shared.add_step(graph, world), third = shared.add_step(smaller, world);
    for (int run = 0; run < 10; ++run) {
      shared.add(other, {{20.0, 20.0, 7.0, 1e9}, 100.0, 1.0});  // 40 (1 + u^2) = 100 u: u = 1/2
      shared.add(third, {{20.0, 7.0, 7.0, 7.0}, 100.0, 1.0});   // 20 (1 + u^2) = 100 u: u = 0.2087
    }
    static_cast<void>(shared.samples(world, 2.0));
    CHECK(shared.stretch() * 40.0 * 1.25 + shared.wait_us() == Approx(100.0 - 7.0));
    CHECK(shared.stretch() * 20.0 * (1.0 + std::pow((5.0 - std::sqrt(21.0)) / 2.0, 2)) + 3.0 * shared.wait_us() ==
          Approx(100.0 - 21.0));
    CHECK(times.stretch() == Approx(3.0));  // the steps above: 3 * CPU + (7 + 5) for each communication
    CHECK(times.wait_us() == Approx(5.0));
    CHECK(samples[0].first.stage == Stage::kExpert);
    CHECK(samples[0].second.amount == 100.0);
    CHECK(samples[0].second.time_us == Approx(60.0));
    CHECK(samples[1].second.time_us == Approx(12.0));
  });
}
