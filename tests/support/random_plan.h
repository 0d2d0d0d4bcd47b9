// tests/support/random_plan.h - random programs, and random orders of any program.
#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/graph.h"

namespace weft::test {

/// Each task reads some earlier buffers and writes a new or an old one, on one of three resources; with `host_waits`,
/// an eighth of them on the host.
[[nodiscard]] scheduler::Graph random_graph(std::uint64_t seed, int num_tasks, bool host_waits = false);

/// A linear extension of the edges: the ready task with the smallest random key goes next.
[[nodiscard]] std::vector<scheduler::TaskId> random_order(const scheduler::Graph& graph, std::uint64_t seed);

}  // namespace weft::test
