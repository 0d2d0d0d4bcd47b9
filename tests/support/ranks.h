// tests/support/ranks.h - threads as ranks, with what they find and return brought to the main thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "comm/factory.h"
#include "tests/support/catch.h"
#include "tests/support/findings.h"

namespace weft::test {

using RankBody = std::function<void(comm::Communicator&, Findings&)>;

/// Runs body on `num_ranks` local ranks. Findings become failures of the current test case, errors are rethrown.
inline void check_on_ranks(int num_ranks, const RankBody& body,
                           std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
  std::vector<Findings> findings(static_cast<std::size_t>(num_ranks));
  comm::run_local_ranks(
      num_ranks, [&](comm::Communicator& world) { body(world, findings[static_cast<std::size_t>(world.rank())]); },
      timeout);
  for (int rank = 0; rank < num_ranks; ++rank) {
    const Findings& found = findings[static_cast<std::size_t>(rank)];
    for (const auto& text : found.texts()) FAIL_CHECK("rank " << rank << " of " << num_ranks << ": " << text);
    CHECK(found.num_checks() > 0);  // a body that looks at nothing shows nothing
  }
}

/// What `body` returned on each local rank.
template <class T>
[[nodiscard]] std::vector<T> results_of_ranks(int num_ranks, const std::function<T(comm::Communicator&)>& body,
                                              std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
  std::vector<T> results(static_cast<std::size_t>(num_ranks));
  comm::run_local_ranks(
      num_ranks, [&](comm::Communicator& world) { results[static_cast<std::size_t>(world.rank())] = body(world); },
      timeout);
  return results;
}

}  // namespace weft::test
