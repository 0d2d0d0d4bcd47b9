// comm/tcp/network.h - the job's ranks as addresses, and the connections of its groups.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "comm/tcp/backend.h"
#include "comm/tcp/socket.h"

namespace weft::comm::tcp {

/// Shared by all groups of this process. Every rank listens on a port of its own as long as the job lives; a new group
/// connects each of its ranks with every other one, so that groups do not share connections and need no order between
/// them.
class Network {
 public:
  /// Meets all ranks at rank 0. Throws as make_world().
  explicit Network(const Options& options);
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  [[nodiscard]] const Options& options() const noexcept { return options_; }

  /// Collective over the group: its connections by rank, empty at `rank` itself. `members`: ranks of the world.
  /// `group_id`: equal on all of them and on no other group. Throws Error{kTimeout} naming who did not come.
  [[nodiscard]] std::vector<Socket> connect(std::uint64_t group_id, const std::vector<int>& members, int rank);
  /// From any thread: ends all connections, so that every rank that waits for this one learns of it.
  void abort() noexcept;
  void forget(const std::vector<Socket>& sockets) noexcept;

 private:
  struct Place {
    std::string host;
    int port = 0;
  };
  struct Hello;
  void gather_places(Clock::time_point deadline);
  void report_to_master(Clock::time_point deadline);
  [[nodiscard]] Socket accept_from(std::uint64_t group_id, int rank, Clock::time_point deadline);

  Options options_;
  std::uint64_t job_id_ = 0;  // of this start: what is left of an earlier one on the same port is told apart
  Socket listener_;
  std::vector<Place> places_;  // [num_ranks]

  std::mutex accept_mutex_;
  std::map<std::pair<std::uint64_t, int>, Socket> early_;  // came for (group, rank) before this rank asked
  std::mutex mutex_;
  std::set<int> descriptors_;
  bool aborted_ = false;
};

}  // namespace weft::comm::tcp
