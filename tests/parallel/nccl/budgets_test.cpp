// tests/parallel/nccl/budgets_test.cpp - a run's groups over the emulated NCCL have the budgets of CTAs that its config
// gives to their link classes.
#include <vector>

#include "comm/factory.h"
#include "parallel/mesh.h"
#include "tests/support/catch.h"
#include "tests/support/environment.h"
#include "tests/support/nccl/hooks.h"
#include "tests/support/training.h"

namespace weft::test {
namespace {

using emulation::nccl::Budget;
using emulation::nccl::budgets_on;

/// What GPU 0's communicators were made with since it had `before`.
std::vector<Budget> made_since(std::size_t before) {
  const std::vector<Budget> all = budgets_on(0);
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

TEST_CASE("NCCL: the groups of a mesh have the budgets of their links", "[nccl]") {
  const ScopedVariable nodes("WEFT_RANKS_PER_NODE", "2");
  const std::size_t before = budgets_on(0).size();
  comm::run_local_ranks(4, [](comm::Communicator& world) {
    const parallel::Mesh mesh = parallel::make_mesh(4, world.rank(), {.ep_size = 4, .ranks_per_node = 2});
    const parallel::MeshComms comms(world, mesh, {DeviceKind::kCuda, world.rank()}, {2, 8});
  });
  CHECK(made_since(before) == of_two_nodes(2, 8));
  check_by_the_book();
}

TEST_CASE("NCCL: a run's groups have the budgets of its config", "[nccl]") {
  const ScopedVariable nodes("WEFT_RANKS_PER_NODE", "2");
  const TempFolder folder;
  parallel::RunConfig config = tiny_run(folder.path());
  config.parallel.expert = 4;
  config.parallel.intra_node_ctas = 4;
  config.parallel.inter_node_ctas = 12;
  config.train.steps = 1;
  const std::size_t before = budgets_on(0).size();
  comm::run_local_ranks(4, [&](comm::Communicator& world) {
    const Device device{DeviceKind::kCuda, world.rank()};
    static_cast<void>(
        train_here(config, world, {.run_dir = folder.path() / "run", .device = device, .ranks_per_node = 2}));
  });
  CHECK(made_since(before) == of_two_nodes(4, 12));
  check_by_the_book();
}

}  // namespace
}  // namespace weft::test
