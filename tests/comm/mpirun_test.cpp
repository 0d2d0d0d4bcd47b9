// tests/comm/mpirun_test.cpp - jobs that fail must end, soon, with the right exit code and message.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string>

#include "tests/support/catch.h"

namespace weft::test {
namespace {

struct Outcome {
  int exit_code = -1;
  std::string output;
};

Outcome run_command(const std::string& arguments) {
  const std::string command =
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 60 " + arguments + " 2>&1";
  Outcome outcome;
  FILE* pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 4096> chunk{};
  while (const std::size_t n = std::fread(chunk.data(), 1, chunk.size(), pipe)) outcome.output.append(chunk.data(), n);
  const int status = ::pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

/// Runs one hidden case of tests/comm/mpi/failure_test.cpp.
Outcome run_job(int num_ranks, const std::string& test_case) {
  return run_command(WEFT_MPIEXEC " --oversubscribe --mca mpi_yield_when_idle 0 -n " + std::to_string(num_ranks) +
                     " " WEFT_TEST_MPI " '" + test_case + "'");
}

bool contains(const Outcome& outcome, const std::string& text) {
  return outcome.output.find(text) != std::string::npos;
}

TEST_CASE("MPI: a stalled rank is a timeout that names collective, rank and group", "[comm][mpirun]") {
  const Outcome job = run_job(3, "[.stall]");
  INFO(job.output);
  CHECK(job.exit_code == 79);
  CHECK(contains(job, "kTimeout: all_reduce on rank 0 of 3 (group world): no answer from rank 1 within 300 ms"));
}

TEST_CASE("MPI: a killed rank takes the job down", "[comm][mpirun]") {
  const Outcome job = run_job(3, "[.kill]");
  INFO(job.output);
  CHECK(job.exit_code == 137);  // 128 + SIGKILL, not 124: `timeout` had nothing to do
}

TEST_CASE("MPI: an error on one rank ends the job", "[comm][mpirun]") {
  const Outcome job = run_job(3, "[.throw]");
  INFO(job.output);
  CHECK(job.exit_code == 1);
  CHECK(contains(job, "rank 1 of 3: kIo: the disk is full"));
}

TEST_CASE("MPI: lengths that differ between ranks are found", "[comm][mpirun]") {
  const Outcome too_short = run_job(2, "[.short]");
  INFO(too_short.output);
  CHECK(too_short.exit_code == 79);
  CHECK(contains(too_short, "kComm: send_recv on rank 0 of 2 (group world): rank 1 sent 12 bytes, 16 were expected"));
  const Outcome too_long = run_job(2, "[.long]");
  INFO(too_long.output);
  CHECK(too_long.exit_code == 79);
  CHECK(contains(too_long, "kComm: send_recv on rank 0 of 2 (group world): message of 16 bytes from rank 1: "));
}

TEST_CASE("MPI: a finding of any rank is printed by rank 0 and fails the job", "[comm][mpirun]") {
  const Outcome job = run_job(3, "[.finding]");
  INFO(job.output);
  CHECK(job.exit_code == 1);
  CHECK(contains(job, "rank 1 of 3: this rank is number 1"));
}

TEST_CASE("ranks that MPI does not see are an error, not several worlds of one", "[comm][mpirun]") {
  const Outcome job = run_command("env SLURM_STEP_NUM_TASKS=3 " WEFT_TEST_MPI " '[.finding]'");  // as srun without PMI
  INFO(job.output);
  CHECK(job.exit_code == 1);
  CHECK(contains(job, "kUnavailable: the launcher started 3 ranks (SLURM_STEP_NUM_TASKS), MPI sees one"));
}

TEST_CASE("mpirun's ranks meet over TCP when WEFT_MASTER_ADDR asks for it", "[comm][mpirun][tcp]") {
  const std::string place = "localhost:" + std::to_string(30000 + ::getpid() % 2000);
  const Outcome job = run_command("env WEFT_LOG=debug WEFT_MASTER_ADDR=" + place +
                                  " " WEFT_MPIEXEC " --oversubscribe -n 2 $(readlink /proc/" +
                                  std::to_string(::getpid()) + "/exe) '[.tcp_job]'");
  INFO(job.output);
  CHECK(job.exit_code == 0);
  CHECK(contains(job, "communication: tcp"));
  CHECK(contains(job, "rank 1 of 2: sum 1"));
}

}  // namespace
}  // namespace weft::test
