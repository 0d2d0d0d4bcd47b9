// tests/comm/tcp_test.cpp - ranks without MPI: conformance, how a job starts or says why not, and peers that fail.
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "comm/factory.h"
#include "comm/tcp/backend.h"
#include "comm/tcp/socket.h"
#include "tests/support/catch.h"
#include "tests/support/comm_conformance.h"
#include "tests/support/environment.h"
#include "tests/support/findings.h"

namespace weft::test {
namespace {

using comm::as_buffer;
using comm::Communicator;
using std::chrono::milliseconds;

/// A port that nobody listens on. Not one that the system would choose: those are taken by connections that go out
/// meanwhile, of tests that run beside this one.
int free_port() {
  constexpr int kFirst = 10000, kCount = 20000;  // below the range of outgoing connections
  static std::atomic<int> next{static_cast<int>(::getpid() % kCount)};
  for (;;) {
    const int port = kFirst + (next += 37) % kCount;
    try {
      static_cast<void>(comm::tcp::listen_on(port));
      return port;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kUnavailable) throw;
    }
  }
}

comm::tcp::Options options_of(int port, int rank, int num_ranks, milliseconds timeout = std::chrono::seconds(60)) {
  comm::tcp::Options options;
  options.master_host = "localhost";
  options.master_port = port;
  options.rank = rank;
  options.num_ranks = num_ranks;
  options.timeout = timeout;
  options.connect_timeout = std::chrono::seconds(30);
  return options;
}

/// Runs body(options of rank r, findings) on threads; findings and escaped errors fail the test case.
void run_ranks(int num_ranks, milliseconds timeout, const std::function<void(comm::tcp::Options&, Findings&)>& body) {
  std::vector<Findings> findings(static_cast<std::size_t>(num_ranks));
  const int port = free_port();
  std::vector<std::jthread> ranks;
  for (int r = 0; r < num_ranks; ++r) {
    ranks.emplace_back([&, r] {
      Findings& mine = findings[static_cast<std::size_t>(r)];
      auto options = options_of(port, r, num_ranks, timeout);
      try {
        body(options, mine);
      } catch (const std::exception& e) {
        mine.expect(false, "threw ", e.what());
      }
    });
  }
  ranks.clear();
  for (int r = 0; r < num_ranks; ++r) {
    const Findings& found = findings[static_cast<std::size_t>(r)];
    for (const auto& text : found.texts()) FAIL_CHECK("rank " << r << " of " << num_ranks << ": " << text);
    CHECK(found.num_checks() > 0);
  }
}

void on_worlds(int num_ranks, const std::function<void(Communicator&, Findings&)>& body,
               milliseconds timeout = std::chrono::seconds(60)) {
  run_ranks(num_ranks, timeout, [&](comm::tcp::Options& options, Findings& findings) {
    const auto world = comm::tcp::make_world(options);
    body(*world, findings);
  });
}

TEST_CASE("every communicator over TCP", "[comm][tcp]") {
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      for (const int num_ranks : {1, 2, 3, 5})
        on_worlds(num_ranks, [&](Communicator& world, Findings& findings) {
          for (const std::uint64_t seed : {1U, 2U}) c.run(world, seed, findings);
        });
    }
  }
}

TEST_CASE("small scratch over TCP", "[comm][tcp]") {
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      run_ranks(3, std::chrono::seconds(60), [&](comm::tcp::Options& options, Findings& findings) {
        options.scratch_bytes = 20000;
        const auto world = comm::tcp::make_world(options);
        c.run(*world, 7, findings);
      });
    }
  }
}

TEST_CASE("TCP: a rank that does not come is named to all that did", "[comm][tcp]") {
  run_ranks(2, {}, [](comm::tcp::Options& options, Findings& findings) {
    options.num_ranks = 4;
    options.connect_timeout = std::chrono::seconds(1);
    findings.expect_error(ErrorCode::kTimeout, "rank 2, 3 of 4 did not come within 1 s",
                          [&] { static_cast<void>(comm::tcp::make_world(options)); });
  });
}

TEST_CASE("TCP: ranks that disagree on their number are told so", "[comm][tcp]") {
  run_ranks(2, {}, [](comm::tcp::Options& options, Findings& findings) {
    options.num_ranks += options.rank;
    findings.expect_error(ErrorCode::kInvalidArgument, "rank 1 was started as one of 3, rank 0 as one of 2",
                          [&] { static_cast<void>(comm::tcp::make_world(options)); });
  });
}

TEST_CASE("TCP: two processes with one rank are told so", "[comm][tcp]") {
  run_ranks(3, {}, [](comm::tcp::Options& options, Findings& findings) {
    options.rank = std::min(options.rank, 1);
    findings.expect_error(ErrorCode::kInvalidArgument, "two processes were started as rank 1",
                          [&] { static_cast<void>(comm::tcp::make_world(options)); });
  });
}

TEST_CASE("TCP: a port in use and a master that is not there are named", "[comm][tcp]") {
  const comm::tcp::Socket taken = comm::tcp::listen_on(0);
  Findings findings;
  findings.expect_error(ErrorCode::kUnavailable, str("cannot listen on port ", port_of(taken)),
                        [&] { static_cast<void>(comm::tcp::make_world(options_of(port_of(taken), 0, 2))); });
  auto options = options_of(free_port(), 1, 2);
  options.connect_timeout = milliseconds(300);
  findings.expect_error(ErrorCode::kTimeout, str("rank 0 at localhost port ", options.master_port, ": cannot reach"),
                        [&] { static_cast<void>(comm::tcp::make_world(options)); });
  options.master_host = "no-such-host.invalid";
  findings.expect_error(ErrorCode::kTimeout, "rank 0 at no-such-host.invalid",
                        [&] { static_cast<void>(comm::tcp::make_world(options)); });
  CHECK(findings.texts() == std::vector<std::string>{});
}

TEST_CASE("TCP: strangers at the door do not keep a job from starting", "[comm][tcp]") {
  run_ranks(2, {}, [](comm::tcp::Options& options, Findings& findings) {
    comm::tcp::Socket stranger;
    if (options.rank == 1) {
      const auto soon = comm::tcp::Clock::now() + std::chrono::seconds(20);
      stranger = comm::tcp::connect_before("localhost", options.master_port, soon);
      const std::string request = "GET / HTTP/1.1\r\nHost: somebody\r\n\r\n";
      stranger.send_all(request.data(), request.size(), soon);
    }
    findings.expect(comm::tcp::make_world(options)->size() == 2, "the job has two ranks");
  });
}

/// What rank 0's barrier throws when the others do `body`.
void expect_at_rank_0(int num_ranks, milliseconds timeout, ErrorCode code, const std::string& text,
                      const std::function<void(Communicator&)>& body) {
  on_worlds(
      num_ranks,
      [&](Communicator& world, Findings& findings) {
        const auto stream = make_inline_stream();
        comm::barrier(world, *stream);
        findings.expect(true, "here");
        if (world.rank() > 0) return body(world);
        findings.expect_error(code, text, [&] { comm::barrier(world, *stream); });
      },
      timeout);
}

TEST_CASE("TCP: a rank that leaves, stalls, aborts or falls out of step is named", "[comm][tcp]") {
  expect_at_rank_0(3, {}, ErrorCode::kComm, "all_reduce on rank 0 of 3 (group world): rank 1 is gone",
                   [](Communicator& world) {
                     if (world.rank() == 2) std::this_thread::sleep_for(milliseconds(300));
                   });
  expect_at_rank_0(3, milliseconds(200), ErrorCode::kTimeout, "no answer from rank 1 within 200 ms",
                   [](Communicator& world) {
                     if (world.rank() == 1) return std::this_thread::sleep_for(milliseconds(600));
                     try {
                       comm::barrier(world, *make_inline_stream());
                     } catch (const Error&) {
                     }
                     std::this_thread::sleep_for(milliseconds(600));
                   });
  expect_at_rank_0(2, {}, ErrorCode::kComm, "rank 1 is gone", [](Communicator& world) {
    world.abort();
    std::this_thread::sleep_for(milliseconds(300));
  });
  expect_at_rank_0(2, {}, ErrorCode::kComm, "rank 1 sent 8 bytes, 4 were expected", [](Communicator& world) {
    std::array<std::int32_t, 2> x{};
    try {
      world.all_reduce(as_buffer(x.data(), 2), as_buffer(x.data(), 2), comm::ReduceOp::kSum, *make_inline_stream());
    } catch (const Error&) {
    }
  });
  expect_at_rank_0(2, {}, ErrorCode::kComm, "the ranks' calls differ", [](Communicator& world) {
    std::int32_t x = 0;
    const auto stream = make_inline_stream();
    world.send_recv({}, {}, *stream);  // rank 0 makes no such call
    try {
      world.all_reduce(as_buffer(&x, 1), as_buffer(&x, 1), comm::ReduceOp::kSum, *stream);
    } catch (const Error&) {
    }
  });
}

TEST_CASE("TCP: an abort leaves alone what took the place of a group that is gone", "[comm][tcp]") {
  on_worlds(2, [](Communicator& world, Findings& findings) {
    static_cast<void>(world.split(0, 0, "short-lived"));
    comm::barrier(world, *make_inline_stream());
    std::array<std::array<int, 2>, 4> pairs{};  // they get the numbers of the sockets that were closed
    for (auto& pair : pairs) findings.expect(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) == 0, "socketpair");
    world.abort();
    for (const auto& pair : pairs) {
      findings.expect(::send(pair[0], "x", 1, MSG_NOSIGNAL) == 1, "the socket was shut down");
      for (const int descriptor : pair) ::close(descriptor);
    }
  });
}

TEST_CASE("the first host of a Slurm node list", "[comm][tcp]") {
  for (const auto& [list, host] : std::vector<std::pair<std::string, std::string>>{{"gpu1", "gpu1"},
                                                                                   {"gpu1,gpu2", "gpu1"},
                                                                                   {"gpu[07-09,12]", "gpu07"},
                                                                                   {"gpu[3],x", "gpu3"},
                                                                                   {"rack[1-2]", "rack1"},
                                                                                   {"a-b,c[1-4]", "a-b"}})
    CHECK(comm::tcp::first_host(list) == host);
}

/// Every variable that says something about a job, unset for as long as it lives.
struct NoJob {
  ScopedVariable rank{"RANK", nullptr}, size{"WORLD_SIZE", nullptr}, address{"MASTER_ADDR", nullptr},
      port{"MASTER_PORT", nullptr}, own{"WEFT_MASTER_ADDR", nullptr}, slurm_rank{"SLURM_PROCID", nullptr},
      slurm_size{"SLURM_STEP_NUM_TASKS", nullptr}, nodes{"SLURM_STEP_NODELIST", nullptr},
      job_nodes{"SLURM_JOB_NODELIST", nullptr}, job{"SLURM_JOB_ID", nullptr}, step{"SLURM_STEP_ID", nullptr},
      wait{"WEFT_CONNECT_TIMEOUT_S", nullptr};
};

TEST_CASE("the environment of torchrun, of Slurm, and none", "[comm][tcp]") {
  const NoJob none;
  CHECK_FALSE(comm::tcp::from_environment());
  {
    const ScopedVariable rank("RANK", "3"), size("WORLD_SIZE", "8");
    CHECK_FALSE(comm::tcp::from_environment());  // other programs use such names, too
    const ScopedVariable address("MASTER_ADDR", "head"), port("MASTER_PORT", "29500"),
        wait("WEFT_CONNECT_TIMEOUT_S", "7");
    const auto options = comm::tcp::from_environment();
    REQUIRE(options);
    CHECK((options->rank == 3 && options->num_ranks == 8));
    CHECK((options->master_host == "head" && options->master_port == 29500));
    CHECK(options->connect_timeout == std::chrono::seconds(7));
    const ScopedVariable own("WEFT_MASTER_ADDR", "[fe80::1]:77");
    CHECK(comm::tcp::from_environment()->master_host == "fe80::1");
    CHECK(comm::tcp::from_environment()->master_port == 77);
  }
  {
    const ScopedVariable rank("SLURM_PROCID", "1"), size("SLURM_STEP_NUM_TASKS", "2"),
        nodes("SLURM_STEP_NODELIST", "n[4-5]");
    CHECK_THROWS_AS(comm::tcp::from_environment(), Error);  // no job number, so no port
    const ScopedVariable job("SLURM_JOB_ID", "12345");
    const auto options = comm::tcp::from_environment();
    REQUIRE(options);
    CHECK((options->rank == 1 && options->num_ranks == 2 && options->master_host == "n4"));
    CHECK((options->master_port >= 20000 && options->master_port < 30000));
    const ScopedVariable step("SLURM_STEP_ID", "1");
    CHECK(comm::tcp::from_environment()->master_port != options->master_port);  // two steps of one job
  }
  const ScopedVariable own("WEFT_MASTER_ADDR", "head:1");
  Findings findings;
  const auto bad = [&](const std::string& text) {
    findings.expect_error(ErrorCode::kInvalidArgument, text, [] { static_cast<void>(comm::tcp::from_environment()); });
  };
  bad("nothing says which rank");
  const ScopedVariable rank("RANK", "2"), size("WORLD_SIZE", "2");
  bad("RANK=2 is not below WORLD_SIZE=2");
  const ScopedVariable good("RANK", "0"), nowhere("WEFT_MASTER_ADDR", "head");
  bad("WEFT_MASTER_ADDR=head is not host:port");
  const ScopedVariable port("WEFT_MASTER_ADDR", "head:99999");
  bad("is not host:port");
  CHECK(findings.texts() == std::vector<std::string>{});
}

TEST_CASE("job: a rank of a job of processes", "[.tcp_job]") {
  const auto world = comm::make_world(std::chrono::seconds(20));
  std::int64_t sum = world->rank();
  world->all_reduce(as_buffer(&sum, 1), as_buffer(&sum, 1), comm::ReduceOp::kSum, *make_inline_stream());
  std::printf("rank %d of %d: sum %d\n", world->rank(), world->size(), static_cast<int>(sum));
}

/// Runs a shell command; its output, and its exit status as the last line.
std::string output_of(const std::string& command) {
  FILE* pipe = ::popen(("(" + command + ") 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string out;
  std::array<char, 4096> chunk{};
  while (const std::size_t n = std::fread(chunk.data(), 1, chunk.size(), pipe)) out.append(chunk.data(), n);
  ::pclose(pipe);
  return out;
}

TEST_CASE("processes become a world without MPI", "[comm][tcp]") {
  const NoJob none;
  const std::string me = "timeout 60 $(readlink /proc/" + std::to_string(::getpid()) + "/exe) '[.tcp_job]' & ";
  const std::string port = std::to_string(free_port());
  const std::string torchrun = output_of("export WORLD_SIZE=3 MASTER_ADDR=localhost MASTER_PORT=" + port +
                                         "; for r in 0 1 2; do RANK=$r " + me + "done; wait");
  INFO(torchrun);
  for (const char* line : {"rank 0 of 3: sum 3", "rank 1 of 3: sum 3", "rank 2 of 3: sum 3"})
    CHECK(torchrun.find(line) != std::string::npos);
  // srun without PMI; the job's number gives the port
  const std::string slurm = output_of(
      "export SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost SLURM_JOB_ID=" + std::to_string(::getpid()) +
      "; for r in 0 1; do SLURM_PROCID=$r " + me + "done; wait");
  INFO(slurm);
  for (const char* line : {"rank 0 of 2: sum 1", "rank 1 of 2: sum 1"}) CHECK(slurm.find(line) != std::string::npos);
}

}  // namespace
}  // namespace weft::test
