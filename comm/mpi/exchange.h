// comm/mpi/exchange.h - point-to-point messages under way together, and the wait for them.
#pragma once

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/message_communicator.h"
#include "comm/mpi/backend.h"

namespace weft::comm::mpi {

/// How a wait spends its time, and what it has learned; one per group.
struct Pace {
  /// Bytes a microsecond over which a poll is followed by the next at once, because data moves in our polls only
  /// (shared memory). 0: the kernel moves it (TCP), and a waiting rank can sleep.
  std::int64_t polled_bytes_per_us = 0;
  /// What long exchanges of the group took lately at best, so that a wait can sleep until about when the next one is
  /// done. 0: none yet.
  double us_per_byte = 0.0;
};

/// Both sides cut long messages into pieces alike, as they agree on the length, and have a few pieces of each under way
/// at a time. A wait polls, then polls with sleeps.
class Exchange final : public Messages {
 public:
  Exchange(MPI_Comm comm, int tag, const Options& options, Pace& pace)
      : comm_(comm), tag_(tag), options_(options), pace_(pace) {}
  void receive(void* data, std::int64_t bytes, int src_rank) override {
    add({static_cast<std::byte*>(data), bytes, src_rank, true});
  }
  void send(const void* data, std::int64_t bytes, int dst_rank) override {
    add({static_cast<std::byte*>(const_cast<void*>(data)), bytes, dst_rank, false});  // MPI_Isend only reads
  }
  void wait() override;

 private:
  static constexpr int kWindow = 4;  ///< Pieces of one message under way: enough to keep a link busy between polls.
  struct Message {
    std::byte* data;
    std::int64_t bytes;
    int peer;
    bool is_receive;
    std::int64_t posted = 0, done = 0;  ///< Bytes.
    int first = 0, under_way = 0;       ///< The oldest piece and their number, in the ring of its requests.
    std::array<MPI_Request, kWindow> requests{};
  };
  void add(const Message& message);
  /// Fills the windows of the messages with `peer`, in order: a message's first piece comes after the last one's last.
  void post(int peer, bool is_receive);
  void post_piece(Message& message);
  /// One look at the oldest piece of every message. True when some piece was done.
  bool advance();
  void finish_piece(Message& message, const MPI_Status& status);
  [[noreturn]] void throw_timeout();

  MPI_Comm comm_;
  int tag_;
  const Options& options_;
  Pace& pace_;
  std::int64_t total_bytes_ = 0;
  std::size_t num_done_ = 0;
  std::vector<Message> messages_;
  std::vector<MPI_Request> oldest_;  ///< [messages]; MPI_REQUEST_NULL once a message is done.
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace weft::comm::mpi
