// tests/support/mpi_main.cpp - the main of weft_test_mpi.
#define CATCH_CONFIG_RUNNER
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "comm/factory.h"
#include "core/log.h"
#include "tests/support/catch.h"
#include "tests/support/mpi_world.h"

namespace weft::test {
namespace {

constexpr std::chrono::seconds kTimeout{120};

std::unique_ptr<comm::Communicator>& world_owner() {
  static std::unique_ptr<comm::Communicator> world;
  return world;
}

/// The texts of all ranks, joined in rank order, on every rank.
std::vector<std::string> gather_texts(comm::Communicator& world, const std::vector<std::string>& mine) {
  const auto stream = make_inline_stream();
  std::string joined;
  for (const auto& text : mine) joined += str("rank ", world.rank(), " of ", world.size(), ": ", text, '\0');
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(world.size()));
  const auto length = static_cast<std::int64_t>(joined.size());
  comm::all_gather(world, comm::as_buffer(&length, 1), comm::as_buffer(lengths.data(), world.size()), *stream);
  std::int64_t total = 0;
  for (const std::int64_t n : lengths) total += n;
  std::vector<std::uint8_t> all(static_cast<std::size_t>(total));
  world.all_gather_v({joined.data(), length, DType::kU8}, comm::as_buffer(all.data(), total), lengths, *stream);
  std::vector<std::string> texts;
  for (auto i = all.begin(); i != all.end();) {
    const auto end = std::find(i, all.end(), std::uint8_t{0});
    texts.emplace_back(i, end);
    i = end + 1;
  }
  return texts;
}

}  // namespace

comm::Communicator& mpi_world() { return *world_owner(); }

void check_on_mpi_ranks(const std::function<void(comm::Communicator&, Findings&)>& body) {
  comm::Communicator& world = mpi_world();
  try {
    Findings findings;
    body(world, findings);
    findings.expect(findings.num_checks() > 0, "the test looked at nothing");
    for (const auto& text : gather_texts(world, findings.texts())) FAIL_CHECK(text);
    SUCCEED();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "rank %d of %d: %s\n", world.rank(), world.size(), e.what());
    world.abort();
  }
}

}  // namespace weft::test

int main(int argc, char* argv[]) {
  auto& world = weft::test::world_owner();
  try {
    world = weft::comm::make_world(weft::comm::Backend::kMpi, weft::test::kTimeout);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  weft::set_log_rank(world->rank(), world->size());
  Catch::Session session;
  int status = session.applyCommandLine(argc, argv);
  if (world->rank() != 0) session.configData().outputFilename = "/dev/null";
  if (status == 0) status = session.run();
  world.reset();
  return status;
}
