// tests/support/nccl/clique.h - the emulated NCCL inside: what the ranks of a communicator share, and its kernels.
#pragma once

#include <nccl.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace weft::emulation::nccl {

/// Everything below is guarded by one lock; whoever waits, waits for any change.
struct Monitor {
  std::mutex mutex;
  std::condition_variable changed;
};
[[nodiscard]] Monitor& monitor();

enum class Kind { kAllReduce, kReduce, kReduceScatter, kAllGather, kBroadcast, kSend, kRecv };

struct Op {
  Kind kind;
  const void* send;
  void* recv;
  std::size_t count;  ///< As in the call: of one rank's share for all-gather and reduce-scatter.
  ncclDataType_t type;
  ncclRedOp_t reduction;
  int peer;  ///< Or the root.
};
[[nodiscard]] std::size_t size_of(ncclDataType_t type);

/// One collective of a clique: who has come to it, with what.
struct Meeting {
  std::vector<Op> ops;  ///< [ranks]
  std::vector<bool> here;
  int num_here = 0, num_left = 0;
  bool done = false;
};
struct Message {
  Op op;
  bool done = false;
};
/// Where all ranks come once from their host: initialisation, the n-th split, finalisation.
struct Gathering {
  int num_here = 0;
  std::vector<std::pair<int, int>> colors;  ///< [ranks] (color, key) of a split
  std::map<int, std::shared_ptr<struct Clique>> made;
};

struct Clique {
  explicit Clique(int num_ranks) : size(num_ranks), members(static_cast<std::size_t>(num_ranks)) {}
  int size;
  bool is_broken = false;      ///< A rank has aborted: its memory may be gone, and what others launch waits for ever.
  std::vector<Comm*> members;  ///< By rank; null before they come.
  std::map<std::string, Gathering> gatherings;
  std::map<std::uint64_t, Meeting> meetings;
  std::map<std::pair<int, int>, std::deque<std::shared_ptr<Message>>> sends, recvs;  ///< By (source, destination).
  std::set<std::pair<int, int>> connecting;  ///< (rank, peer), peer -1: the collectives' own links.
};

/// What an ncclComm_t points at. Never freed, so that calls after its end are seen.
struct Comm {
  std::shared_ptr<Clique> clique;
  int rank = 0, device = 0;
  ncclConfig_t config{};
  ncclResult_t state = ncclInProgress;
  bool aborted = false, finalized = false, destroyed = false;
  int num_kernels = 0;   ///< Launched and not over.
  int num_recorded = 0;  ///< Kernels in graphs that live: finalisation and abort wait for them to be destroyed.
  std::uint64_t num_collectives = 0;
  int num_splits = 0;
  std::thread job;  ///< Of the last call that was answered with ncclInProgress.
  [[nodiscard]] bool is_gone() const { return aborted || destroyed; }
};

/// Pushes one kernel with `ops` onto the stream. With the lock held.
void launch_kernel(Comm& comm, cudaStream_t stream, std::vector<Op> ops);

/// Of the process; never freed.
struct State {
  std::map<std::uint64_t, std::shared_ptr<Clique>> starting;  ///< By the number in the unique id.
  std::vector<Comm*> comms;
  std::vector<std::string> complaints;
  std::uint64_t next_id = 1;
  int num_late_connections = 0;
};
[[nodiscard]] State& state();

/// Remembers a misuse that a real NCCL may answer with anything; returns `result`. With the lock held.
ncclResult_t complain(ncclResult_t result, const std::string& text);

}  // namespace weft::emulation::nccl
