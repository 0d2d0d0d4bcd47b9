// tests/parallel/nccl/budgets_test.cpp - a run's groups over the emulated NCCL have the budgets of CTAs that its config
// gives to their link classes, or that its profile leads to.
#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "comm/factory.h"
#include "parallel/mesh.h"
#include "parallel/train/probes.h"
#include "parallel/train/run_device.h"
#include "tests/support/catch.h"
#include "tests/support/environment.h"
#include "tests/support/nccl/hooks.h"
#include "tests/support/training.h"
#include "tools/config/schedule_files.h"

namespace weft::test {
namespace {

using emulation::nccl::Budget;
using emulation::nccl::budgets_on;
using scheduler::CtaSample;
using scheduler::LinkClass;

/// What a GPU's communicators were made with since it had `before`.
std::vector<Budget> made_since(std::size_t before, int device = 0) {
  const std::vector<Budget> all = budgets_on(device);
  return {all.begin() + static_cast<std::ptrdiff_t>(before), all.end()};
}

void check_by_the_book() {
  CHECK(emulation::nccl::take_complaints() == std::vector<std::string>{});
  CHECK(emulation::nccl::num_communicators() == 0);
}

/// EP 4 over two nodes of two ranks, ESP 1: the world, and the groups in the order of MeshComms.
std::vector<Budget> of_two_nodes(int inside, int between) {
  const Budget i1{1, inside, inside}, i2{2, inside, inside}, b2{2, between, between}, b4{4, between, between};
  return {b4, b4, i2, b2, i1, b4, i1, i1, i1, i1};  // world, EP, inside, across, ESP, experts, EDP, SP, heads, ring
}

TEST_CASE("NCCL: the groups of a mesh have the budgets of their links, rank 0's on every rank", "[nccl]") {
  const ScopedVariable nodes("WEFT_RANKS_PER_NODE", "2");
  const std::array before{budgets_on(0).size(), budgets_on(3).size()};
  comm::run_local_ranks(4, [](comm::Communicator& world) {
    const parallel::Mesh mesh = parallel::make_mesh(4, world.rank(), {.ep_size = 4, .ranks_per_node = 2});
    const comm::CtaBudgets ctas{2 + world.rank(), 8 + world.rank()};
    const parallel::MeshComms comms(world, mesh, {DeviceKind::kCuda, world.rank()}, ctas);
  });
  CHECK(made_since(before[0]) == of_two_nodes(2, 8));
  CHECK(made_since(before[1], 3) == of_two_nodes(2, 8));
  check_by_the_book();
}

/// A run of one step on two nodes of two ranks; rank 0's notes.
std::vector<std::string> train_on_two_nodes(const parallel::ParallelConfig& layout, const scheduler::CostModel& cost) {
  const TempFolder folder;
  parallel::RunConfig config = tiny_run(folder.path());
  config.parallel = layout;
  config.train.steps = 1;
  std::vector<std::string> notes;
  comm::run_local_ranks(4, [&](comm::Communicator& world) {
    const Device device{DeviceKind::kCuda, world.rank()};
    const TrainCall call{.run_dir = folder.path() / "run", .device = device, .ranks_per_node = 2, .cost = cost};
    const TrainRun run = train_here(config, world, call);
    if (world.rank() == 0) notes = run.notes;
  });
  return notes;
}

TEST_CASE("NCCL: training takes the budgets of its config, else those that the figures of its profile lead to",
          "[nccl]") {
  const ScopedVariable nodes("WEFT_RANKS_PER_NODE", "2");
  parallel::ParallelConfig layout{.expert = 4};
  scheduler::CostModel cost = tools::nominal_costs();
  std::vector<Budget> want;
  std::string note;
  SECTION("config") {
    layout.intra_node_ctas = 4;
    layout.inter_node_ctas = 12;
    want = of_two_nodes(4, 12);
    note = "CTAs of NCCL's groups inside nodes: 4 (config), between nodes: 12 (config)";
  }
  SECTION("profile") {
    cost.cta_samples = {{LinkClass::kIntra, 0, 100, 100, 200},
                        {LinkClass::kIntra, 4, 50, 100, 120},
                        {LinkClass::kInter, 8, 90, 100, 150},
                        {LinkClass::kInter, 16, 80, 100, 130}};
    want = of_two_nodes(4, 16);
    note = "CTAs of NCCL's groups inside nodes: 4 (profile), between nodes: 16 (profile)";
  }
  SECTION("one by the config") {
    cost.cta_samples = {{LinkClass::kIntra, 4, 50, 100, 120}, {LinkClass::kInter, 8, 90, 100, 150}};
    layout.inter_node_ctas = 32;
    want = of_two_nodes(4, 32);
    note = "CTAs of NCCL's groups inside nodes: 4 (profile), between nodes: 32 (config)";
  }
  SECTION("NCCL's own, and one not measured") {
    cost.cta_samples = {{LinkClass::kInter, 0, 50, 100, 120}, {LinkClass::kInter, 8, 90, 100, 150}};
    want = of_two_nodes(-1, -1);
    note =
        "CTAs of NCCL's groups inside nodes: as NCCL decides (not measured), between nodes: as NCCL decides (profile)";
  }
  const std::size_t before = budgets_on(0).size();
  const std::vector<std::string> notes = train_on_two_nodes(layout, cost);
  CHECK(made_since(before) == want);
  CHECK(std::count(notes.begin(), notes.end(), note) == 1);
  check_by_the_book();
}

TEST_CASE("NCCL: a profile measures budgets in groups that have them, and the rest in groups as training's", "[nccl]") {
  const ScopedVariable nodes("WEFT_RANKS_PER_NODE", "2");
  const TempFolder folder;
  parallel::RunConfig config = tiny_run(folder.path());
  config.parallel.expert = 4;
  const std::size_t before = budgets_on(0).size();
  std::array<std::vector<CtaSample>, 4> samples;
  scheduler::CostModel cost;
  comm::run_local_ranks(4, [&](comm::Communicator& world) {
    const Device device{DeviceKind::kCuda, world.rank()};
    parallel::Profile mine =
        measure_profile(config, world, {.ranks_per_node = 2, .device = device, .time_limit_s = 0.1});
    samples[static_cast<std::size_t>(world.rank())] = mine.cost.cta_samples;
    if (world.rank() == 0) cost = std::move(mine.cost);
  });
  check_by_the_book();
  for (const auto& of_rank : samples) CHECK(of_rank == samples[0]);

  std::vector<Budget> want;  // for each budget a world, a group inside a node, and one between nodes
  std::vector<std::pair<LinkClass, int>> kinds;
  for (const int ctas : {-1, 2, 4, 8, 16, 32}) {
    for (const int size : {4, 2, 2}) want.push_back({size, ctas, ctas});
    for (const LinkClass link : {LinkClass::kIntra, LinkClass::kInter}) kinds.emplace_back(link, std::max(ctas, 0));
  }
  REQUIRE(samples[0].size() == kinds.size());
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const CtaSample& s = samples[0][i];
    CHECK((s.link == kinds[i].first && s.ctas == kinds[i].second));
    CHECK((s.collective_us > 0.0 && s.product_us > 0.0 && s.overlapped_us > 0.0));
  }
  const std::string text = tools::costs_to_text(cost, {}, tools::Measurement{.ranks = 4, .ranks_per_node = 2});
  const scheduler::CostModel read = tools::costs_from_text(text, "a test", -1e9);
  CHECK(read.cta_samples == cost.cta_samples);
  const auto as_made = [](int ctas) { return ctas > 0 ? ctas : -1; };
  const comm::CtaBudgets chosen = parallel::cta_budgets(config, read.cta_samples);
  const std::vector<Budget> groups = of_two_nodes(as_made(chosen.intra_node), as_made(chosen.inter_node));
  want.insert(want.end(), groups.begin(), groups.end());
  want.insert(want.end(), {groups[2], groups[3]});  // of contention: inside a node, between nodes
  CHECK(made_since(before) == want);

  const std::size_t before_training = budgets_on(0).size();
  static_cast<void>(train_on_two_nodes(config.parallel, read));
  CHECK(made_since(before_training) == groups);
  check_by_the_book();
}

}  // namespace
}  // namespace weft::test
