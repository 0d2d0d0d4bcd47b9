// comm/tcp/messages.h - messages of one group under way together over its connections.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "comm/message_communicator.h"
#include "comm/tcp/socket.h"

namespace weft::comm::tcp {

/// See Messages. A message is a header and its bytes; the header says which of the group's collectives it belongs to
/// and how long it is, so that ranks that fell out of step find out. A wait sleeps in the system until a socket is
/// ready.
class TcpMessages final : public Messages {
 public:
  TcpMessages(const std::vector<Socket>& peers, std::uint64_t collective, std::chrono::milliseconds timeout)
      : peers_(peers), collective_(collective), timeout_(timeout), sends_(peers.size()), receives_(peers.size()) {}
  void receive(void* data, std::int64_t bytes, int src_rank) override;
  void send(const void* data, std::int64_t bytes, int dst_rank) override;
  void wait() override;

 private:
  struct Header {
    std::uint64_t collective = 0;
    std::int64_t bytes = 0;
  };
  struct Message {
    std::byte* data = nullptr;
    Header header = {};  // of a receive: what has come
    std::int64_t bytes = 0;
    std::int64_t done = 0;  // bytes, of the header first
  };
  static constexpr std::int64_t kHeaderBytes = sizeof(Header);

  /// Moves what can be moved without waiting. True when anything was.
  bool advance_sends(std::size_t peer);
  bool advance_receives(std::size_t peer);
  void check_header(const Message& message, std::size_t peer) const;
  void wait_for_sockets(Clock::time_point deadline);
  [[noreturn]] void throw_timeout() const;

  const std::vector<Socket>& peers_;
  std::uint64_t collective_;
  std::chrono::milliseconds timeout_;
  std::vector<std::deque<Message>> sends_, receives_;  // [P], in order
};

}  // namespace weft::comm::tcp
