// comm/mpi/exchange.h - point-to-point messages under way together, and the wait for them.
#pragma once

#include <mpi.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/mpi/backend.h"

namespace weft::comm::mpi {

/// A set of messages: post all receives and sends, then wait() once. Messages between one pair match in order. Both
/// sides cut long ones alike, as they agree on the length. Empty ones are not sent.
class Exchange {
 public:
  Exchange(MPI_Comm comm, int tag, const Options& options) : comm_(comm), tag_(tag), options_(options) {}
  void receive(void* data, std::int64_t bytes, int src_rank);
  void send(const void* data, std::int64_t bytes, int dst_rank);
  /// Polls, then polls with short sleeps, until all is done. Throws Error{kTimeout} naming the peers that did not come,
  /// and Error{kComm} when MPI fails or a peer sent another length.
  void wait();

 private:
  struct Posted {
    int peer;
    int bytes;
    bool is_receive;
  };
  [[nodiscard]] bool test();
  [[noreturn]] void throw_timeout();
  void check_length(const Posted& posted, const MPI_Status& status) const;

  MPI_Comm comm_;
  int tag_;
  const Options& options_;
  std::int64_t total_bytes_ = 0;
  std::vector<MPI_Request> requests_;
  std::vector<Posted> posted_;  ///< One for each request.
  std::vector<MPI_Status> statuses_;
};

}  // namespace weft::comm::mpi
