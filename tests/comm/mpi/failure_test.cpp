// tests/comm/mpi/failure_test.cpp - jobs that fail: hidden, each started in a job of its own by
// tests/comm/mpirun_test.cpp.
#include <csignal>

#include <chrono>
#include <cstdio>
#include <thread>

#include "comm/mpi/backend.h"
#include "tests/support/catch.h"
#include "tests/support/mpi_world.h"

namespace weft::test {
namespace {

using std::chrono::milliseconds;

std::unique_ptr<comm::Communicator> world_with_timeout(milliseconds timeout) {
  comm::mpi::Options options;
  options.timeout = timeout;
  return comm::mpi::make_world(options);
}

/// Prints the error and ends the job with an exit code that the test looks for.
template <class Body>
void end_job_on_error(const Body& body) {
  try {
    body();
  } catch (const Error& e) {
    std::printf("%s\n", e.what());
    std::fflush(stdout);
    mpi_world().abort(79);
  }
}

TEST_CASE("stall: one rank never comes", "[.stall]") {
  const auto world = world_with_timeout(milliseconds(300));
  const auto stream = make_inline_stream();
  comm::barrier(*world, *stream);
  end_job_on_error([&] {
    if (world->rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(60));
    comm::barrier(*world, *stream);
  });
}

TEST_CASE("kill: one rank dies", "[.kill]") {
  const auto stream = make_inline_stream();
  comm::barrier(mpi_world(), *stream);
  if (mpi_world().rank() == 1) std::raise(SIGKILL);
  comm::barrier(mpi_world(), *stream);
}

TEST_CASE("throw: one rank's error ends the job", "[.throw]") {
  check_on_mpi_ranks([](comm::Communicator& world, Findings&) {
    if (world.rank() == 1) throw Error(ErrorCode::kIo, "the disk is full");
    const auto stream = make_inline_stream();
    comm::barrier(world, *stream);
  });
}

/// A receive that is longer than the message would pass unseen in MPI itself; a shorter one is MPI's own error.
void receive_another_length(std::int64_t sent, std::int64_t expected) {
  const auto stream = make_inline_stream();
  std::vector<float> x(8);
  std::vector<comm::SendOp> sends;
  std::vector<comm::RecvOp> recvs;
  if (mpi_world().rank() == 0) recvs.push_back({comm::as_buffer(x.data(), expected), 1});
  if (mpi_world().rank() == 1) sends.push_back({comm::as_buffer(static_cast<const float*>(x.data()), sent), 0});
  end_job_on_error([&] {
    mpi_world().send_recv(sends, recvs, *stream);
    comm::barrier(mpi_world(), *stream);
  });
}

TEST_CASE("short: a message is shorter than expected", "[.short]") { receive_another_length(3, 4); }
TEST_CASE("long: a message is longer than expected", "[.long]") { receive_another_length(5, 4); }

TEST_CASE("finding: one rank finds something wrong", "[.finding]") {
  check_on_mpi_ranks([](comm::Communicator& world, Findings& findings) {
    findings.expect(world.rank() != 1, "this rank is number 1");
  });
}

}  // namespace
}  // namespace weft::test
