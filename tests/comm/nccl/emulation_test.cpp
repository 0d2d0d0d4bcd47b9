// tests/comm/nccl/emulation_test.cpp - that the emulated NCCL refuses what the real one refuses or hangs on: otherwise
// the tests that run over it would show little.
#include <nccl.h>

#include <array>
#include <thread>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/nccl/hooks.h"

namespace weft::test {
namespace {

using emulation::nccl::take_complaints;

/// What the communicator's state becomes.
ncclResult_t settled(ncclComm_t comm) {
  ncclResult_t state = ncclInProgress;
  while (state == ncclInProgress) {
    const ncclResult_t status = ncclCommGetAsyncError(comm, &state);
    if (status != ncclSuccess) return status;
    std::this_thread::yield();
  }
  return state;
}

ncclConfig_t non_blocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

/// Rank r of two, on GPU devices[r]; not settled.
std::array<ncclComm_t, 2> make_pair(std::array<int, 2> devices) {
  ncclUniqueId id{};
  ncclGetUniqueId(&id);
  std::array<ncclComm_t, 2> comms{};
  for (int r = 0; r < 2; ++r) {
    ncclConfig_t config = non_blocking();
    cudaSetDevice(devices[static_cast<std::size_t>(r)]);
    CHECK(ncclCommInitRankConfig(&comms[static_cast<std::size_t>(r)], 2, id, r, &config) == ncclInProgress);
  }
  cudaSetDevice(0);
  return comms;
}

/// Two ranks on two GPUs, each with a stream and eight numbers.
class Pair {
 public:
  Pair() : comms(make_pair({0, 1})) {
    for (int r = 0; r < 2; ++r) {
      cudaSetDevice(r);
      cudaStreamCreateWithFlags(&streams[static_cast<std::size_t>(r)], cudaStreamNonBlocking);
      CHECK(settled(comms[static_cast<std::size_t>(r)]) == ncclSuccess);
    }
    cudaSetDevice(0);
  }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;
  ~Pair() {
    for (ncclComm_t comm : comms) ncclCommAbort(comm);
    for (cudaStream_t stream : streams) cudaStreamDestroy(stream);
    static_cast<void>(take_complaints());
  }
  ncclResult_t sum(int r, const float* send, float* recv, std::size_t count) {
    const auto at = static_cast<std::size_t>(r);
    return ncclAllReduce(send, recv, count, ncclFloat32, ncclSum, comms[at], streams[at]);
  }

  std::array<ncclComm_t, 2> comms;
  std::array<cudaStream_t, 2> streams{};
  std::array<std::array<float, 8>, 2> data{{{1, 2, 3, 4}, {10, 20, 30, 40}}};
};

TEST_CASE("The emulated NCCL refuses two ranks on one GPU", "[nccl]") {
  const auto comms = make_pair({3, 3});
  for (ncclComm_t comm : comms) CHECK(settled(comm) == ncclInvalidUsage);
  for (ncclComm_t comm : comms) CHECK(ncclCommAbort(comm) == ncclSuccess);
  CHECK(take_complaints() == std::vector<std::string>(2, "two ranks on one GPU"));
}

TEST_CASE("The emulated NCCL refuses configs that the real one refuses", "[nccl]") {
  ncclUniqueId id{};
  ncclGetUniqueId(&id);
  const auto refused = [&](const auto& change) {
    ncclConfig_t config = non_blocking();
    change(config);
    ncclComm_t comm = nullptr;
    CHECK(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == ncclInvalidArgument);
    CHECK(take_complaints().size() == 1);
  };
  refused([](ncclConfig_t& config) { config.magic = 0; });
  refused([](ncclConfig_t& config) { config.blocking = 1; });
  refused([](ncclConfig_t& config) { config.minCTAs = 4; });  // without a maxCTAs
  refused([](ncclConfig_t& config) { config.minCTAs = 4, config.maxCTAs = 2; });
  refused([](ncclConfig_t& config) { config.maxCTAs = 0; });
}

TEST_CASE("The emulated NCCL refuses calls at the wrong time", "[nccl]") {
  Pair pair;
  auto& [mine, theirs] = pair.data;
  ncclResult_t state = ncclSuccess;
  REQUIRE(pair.sum(0, mine.data(), mine.data(), 4) == ncclInProgress);
  CHECK(pair.sum(0, mine.data(), mine.data(), 4) == ncclInvalidArgument);  // the first waits for its links
  CHECK(ncclCommFinalize(pair.comms[0]) == ncclInvalidArgument);
  REQUIRE(pair.sum(1, theirs.data(), theirs.data(), 4) == ncclInProgress);
  for (ncclComm_t comm : pair.comms) CHECK(settled(comm) == ncclSuccess);
  for (cudaStream_t stream : pair.streams) cudaStreamSynchronize(stream);
  CHECK((mine[3] == 44 && theirs[0] == 11));

  CHECK(ncclCommDestroy(pair.comms[0]) == ncclInvalidUsage);  // not finalized
  REQUIRE(ncclCommFinalize(pair.comms[0]) == ncclInProgress);
  CHECK(ncclCommDestroy(pair.comms[0]) == ncclInvalidUsage);  // its peer is not there yet
  REQUIRE(ncclCommFinalize(pair.comms[1]) == ncclInProgress);
  CHECK(settled(pair.comms[0]) == ncclSuccess);
  CHECK(pair.sum(0, mine.data(), mine.data(), 4) == ncclInvalidUsage);
  CHECK(ncclCommDestroy(pair.comms[0]) == ncclSuccess);
  CHECK(ncclCommDestroy(pair.comms[0]) == ncclInvalidArgument);
  CHECK(ncclCommAbort(pair.comms[0]) == ncclInvalidArgument);
  CHECK(ncclCommGetAsyncError(pair.comms[0], &state) == ncclInvalidArgument);
  CHECK(pair.sum(0, mine.data(), mine.data(), 4) == ncclInvalidArgument);
}

TEST_CASE("The emulated NCCL refuses groups of calls that are not whole", "[nccl]") {
  Pair pair;
  auto& mine = pair.data[0];
  CHECK(ncclGroupEnd() == ncclInvalidUsage);
  CHECK(ncclSend(mine.data(), 1, ncclFloat32, 0, pair.comms[0], pair.streams[0]) == ncclInvalidUsage);
  ncclGroupStart();
  CHECK(ncclAllReduce(mine.data(), nullptr, 4, ncclFloat32, ncclSum, pair.comms[0], pair.streams[0]) ==
        ncclInvalidArgument);
  CHECK(ncclGroupEnd() == ncclInvalidArgument);  // none of the group is launched
  CHECK(pair.sum(0, mine.data(), mine.data() + 1, 4) == ncclInvalidArgument);
  CHECK(ncclAllGather(mine.data() + 1, mine.data(), 4, ncclFloat32, pair.comms[0], pair.streams[0]) ==
        ncclInvalidArgument);  // rank 0's place is the first
  CHECK(ncclBroadcast(mine.data(), mine.data(), 4, ncclFloat32, 2, pair.comms[0], pair.streams[0]) ==
        ncclInvalidArgument);
}

TEST_CASE("The emulated NCCL reports a stream of another GPU, as a lost context", "[nccl]") {
  Pair pair;
  REQUIRE(ncclAllReduce(pair.data[0].data(), pair.data[0].data(), 4, ncclFloat32, ncclSum, pair.comms[0],
                        pair.streams[1]) == ncclInProgress);
  REQUIRE(pair.sum(1, pair.data[1].data(), pair.data[1].data(), 4) == ncclInProgress);
  CHECK(settled(pair.comms[0]) == ncclUnhandledCudaError);
}

}  // namespace
}  // namespace weft::test
