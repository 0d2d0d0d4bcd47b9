// comm/tcp/socket.h - owned TCP sockets, and whole blocks of bytes over them before a deadline.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace weft::comm::tcp {

using Clock = std::chrono::steady_clock;

/// One end of a connection, or a listening socket; non-blocking, and nothing is held back for larger packets.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) noexcept : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket();

  [[nodiscard]] int get() const noexcept { return descriptor_; }
  explicit operator bool() const noexcept { return descriptor_ >= 0; }

  /// Throw Error{kComm} when the other side is gone and Error{kTimeout} after the deadline.
  void send_all(const void* data, std::size_t bytes, Clock::time_point deadline) const;
  void receive_all(void* data, std::size_t bytes, Clock::time_point deadline) const;
  template <class T>
  void send_value(const T& value, Clock::time_point deadline) const {
    send_all(&value, sizeof value, deadline);
  }
  template <class T>
  [[nodiscard]] T receive_value(Clock::time_point deadline) const {
    T value{};
    receive_all(&value, sizeof value, deadline);
    return value;
  }
  /// The other side's address in digits.
  [[nodiscard]] std::string peer_address() const;

 private:
  int descriptor_ = -1;
};

/// Listens on all addresses of this machine. Port 0: a free one. Throws Error{kUnavailable} when the port is taken.
[[nodiscard]] Socket listen_on(int port);
[[nodiscard]] int port_of(const Socket& listener);
/// The next connection; an empty socket when none came before the deadline.
[[nodiscard]] Socket accept_before(const Socket& listener, Clock::time_point deadline);
/// Tries until somebody listens there. Throws Error{kTimeout} with the last reason.
[[nodiscard]] Socket connect_before(const std::string& host, int port, Clock::time_point deadline);
/// True when `address` names this machine only on this machine.
[[nodiscard]] bool is_loopback(const std::string& address);

}  // namespace weft::comm::tcp
