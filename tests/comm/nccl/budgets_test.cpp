// tests/comm/nccl/budgets_test.cpp - the config that each communicator of NCCL is made with: the budget of CTAs of its
// link class, as the emulated NCCL remembers it.
#include <array>
#include <vector>

#include "comm/for_device.h"
#include "tests/support/catch.h"
#include "tests/support/environment.h"
#include "tests/support/nccl/hooks.h"
#include "tests/support/ranks.h"

namespace weft::test {
namespace {

using comm::Communicator;
using comm::CtaBudgets;
using emulation::nccl::Budget;
using emulation::nccl::budgets_on;

constexpr int kRanks = 4;
constexpr int kUnset = -1;

/// What rank 3's communicators were made with: a world of four ranks, then groups (size, whether it is inside a node
/// where a node has two ranks): two neighbours, every second rank, one rank alone, all, and neighbours split from
/// those; no group once.
std::vector<Budget> made_with(const CtaBudgets& ctas) {
  std::array<std::vector<Budget>, kRanks> made;
  check_on_ranks(kRanks, [&](Communicator& world, Findings& findings) {
    const int rank = world.rank();
    const std::size_t before = budgets_on(rank).size();
    const auto all = for_device(world, {DeviceKind::kCuda, rank}, {.transport = comm::Transport::kNccl, .ctas = ctas});
    const auto inside = all->split(rank / 2, rank), across = all->split(rank % 2, rank), alone = all->split(rank, 0);
    const auto again = all->split(0, -rank), of_again = again->split(rank / 2, 0);  // in another order
    const auto none = all->split(rank == 3 ? -1 : 0, rank);
    findings.expect((none == nullptr) == (rank == 3), "the others have a group");
    auto& mine = made[static_cast<std::size_t>(rank)] = budgets_on(rank);
    mine.erase(mine.begin(), mine.begin() + static_cast<std::ptrdiff_t>(before));
  });
  CHECK(emulation::nccl::take_complaints() == std::vector<std::string>{});
  CHECK(emulation::nccl::num_communicators() == 0);
  for (std::size_t r = 0; r + 1 < kRanks; ++r) {  // they are alike on all ranks, but for the last group
    REQUIRE(made[r].size() == made.back().size() + 1);
    for (std::size_t i = 0; i < made.back().size(); ++i) CHECK(made[r][i] == made.back()[i]);
  }
  return made.back();
}

TEST_CASE("NCCL: groups inside nodes and groups between them have budgets of their own", "[comm][nccl]") {
  const ScopedVariable nodes("WEFT_RANKS_PER_NODE", "2");
  CHECK(made_with({4, 16}) ==
        std::vector<Budget>{{4, 16, 16}, {2, 4, 4}, {2, 16, 16}, {1, 4, 4}, {4, 16, 16}, {2, 4, 4}});
  CHECK(made_with({0, 16}) ==
        std::vector<Budget>{
            {4, 16, 16}, {2, kUnset, kUnset}, {2, 16, 16}, {1, kUnset, kUnset}, {4, 16, 16}, {2, kUnset, kUnset}});
}

TEST_CASE("NCCL: in a world of one node all groups have the budget of those inside nodes", "[comm][nccl]") {
  const ScopedVariable nodes("WEFT_RANKS_PER_NODE", nullptr);
  CHECK(made_with({4, 16}) == std::vector<Budget>{{4, 4, 4}, {2, 4, 4}, {2, 4, 4}, {1, 4, 4}, {4, 4, 4}, {2, 4, 4}});
}

TEST_CASE("NCCL: where every rank is a node all groups of several have the budget of those between them",
          "[comm][nccl]") {
  const ScopedVariable nodes("WEFT_RANKS_PER_NODE", "1");
  CHECK(made_with({4, 16}) ==
        std::vector<Budget>{{4, 16, 16}, {2, 16, 16}, {2, 16, 16}, {1, 4, 4}, {4, 16, 16}, {2, 16, 16}});
}

}  // namespace
}  // namespace weft::test
