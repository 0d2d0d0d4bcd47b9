#include "comm/tcp/socket.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>

#include "core/error.h"

namespace weft::comm::tcp {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

/// Waits for `events`. False when the deadline passed.
bool wait_for(int descriptor, short events, Clock::time_point deadline) {
  for (;;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    constexpr std::int64_t kLongest = 1000;
    pollfd entry{descriptor, events, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(std::min(left, kLongest)));
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) throw Error(ErrorCode::kComm, str("poll: ", reason(errno)));
  }
}

void prepare(int descriptor) {
  const int on = 1;
  static_cast<void>(::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
  static_cast<void>(::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) | O_NONBLOCK));
  static_cast<void>(::fcntl(descriptor, F_SETFD, FD_CLOEXEC));
}

bool try_again(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

/// Empty, and why, when the name is not known.
Addresses look_up(const char* host, int port, int flags, std::string& why) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int status = ::getaddrinfo(host, std::to_string(port).c_str(), &hints, &found);
  if (status != 0) why = ::gai_strerror(status);
  return {status == 0 ? found : nullptr, &::freeaddrinfo};
}

/// A connection to one address; empty, and why, when there is none.
Socket connect_once(const addrinfo& to, Clock::time_point deadline, std::string& why) {
  Socket socket(::socket(to.ai_family, to.ai_socktype, to.ai_protocol));
  if (!socket) return why = reason(errno), Socket();
  prepare(socket.get());
  int error = ::connect(socket.get(), to.ai_addr, to.ai_addrlen) == 0 ? 0 : errno;
  if (error == EINPROGRESS) {
    constexpr std::chrono::seconds kPatience{5};  // then the next address, or the same once more
    if (!wait_for(socket.get(), POLLOUT, std::min(deadline, Clock::now() + kPatience)))
      return why = "no answer", Socket();
    socklen_t length = sizeof error;
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  }
  if (error != 0) return why = reason(error), Socket();
  return socket;
}

}  // namespace

Socket::~Socket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void Socket::send_all(const void* data, std::size_t bytes, Clock::time_point deadline) const {
  const auto* next = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ssize_t n = ::send(descriptor_, next, bytes, MSG_NOSIGNAL);
    if (n < 0 && !try_again(errno)) throw Error(ErrorCode::kComm, reason(errno));
    if (n < 0 && !wait_for(descriptor_, POLLOUT, deadline)) throw Error(ErrorCode::kTimeout, "no answer");
    if (n <= 0) continue;
    next += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

void Socket::receive_all(void* data, std::size_t bytes, Clock::time_point deadline) const {
  auto* next = static_cast<std::byte*>(data);
  while (bytes > 0) {
    const ssize_t n = ::recv(descriptor_, next, bytes, 0);
    if (n == 0) throw Error(ErrorCode::kComm, "the other side closed the connection");
    if (n < 0 && !try_again(errno)) throw Error(ErrorCode::kComm, reason(errno));
    if (n < 0 && !wait_for(descriptor_, POLLIN, deadline)) throw Error(ErrorCode::kTimeout, "no answer");
    if (n <= 0) continue;
    next += n;
    bytes -= static_cast<std::size_t>(n);
  }
}

std::string Socket::peer_address() const {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  std::array<char, 64> text{};
  if (::getpeername(descriptor_, reinterpret_cast<sockaddr*>(&address), &length) != 0 ||
      ::getnameinfo(reinterpret_cast<sockaddr*>(&address), length, text.data(), text.size(), nullptr, 0,
                    NI_NUMERICHOST) != 0)
    throw Error(ErrorCode::kComm, "cannot tell the address of a peer");
  const std::string_view all = text.data();
  constexpr std::string_view kMapped = "::ffff:";  // an IPv4 address on a socket of both kinds
  return std::string(all.starts_with(kMapped) ? all.substr(kMapped.size()) : all);
}

Socket listen_on(int port) {
  std::string why = "no address";
  for (const char* any : {"::", "0.0.0.0"}) {  // the first takes IPv4 as well, where there is IPv6
    const Addresses addresses = look_up(any, port, AI_PASSIVE | AI_NUMERICHOST, why);
    if (!addresses) continue;
    Socket socket(::socket(addresses->ai_family, SOCK_STREAM, 0));
    if (!socket) continue;
    prepare(socket.get());
    const int on = 1, off = 0;
    static_cast<void>(::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    if (addresses->ai_family == AF_INET6)
      static_cast<void>(::setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off));
    if (::bind(socket.get(), addresses->ai_addr, addresses->ai_addrlen) == 0 && ::listen(socket.get(), SOMAXCONN) == 0)
      return socket;
    why = reason(errno);
    if (errno == EADDRINUSE) break;
  }
  throw Error(ErrorCode::kUnavailable, str("cannot listen on port ", port, " of this machine: ", why),
              "choose another one with WEFT_MASTER_ADDR=host:port (or MASTER_PORT) on all ranks");
}

int port_of(const Socket& listener) {
  sockaddr_storage address{};
  socklen_t length = sizeof address;
  if (::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0)
    throw Error(ErrorCode::kComm, str("getsockname: ", reason(errno)));
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

Socket accept_before(const Socket& listener, Clock::time_point deadline) {
  for (;;) {
    if (!wait_for(listener.get(), POLLIN, deadline)) return {};
    Socket socket(::accept(listener.get(), nullptr, nullptr));
    if (socket) {
      prepare(socket.get());
      return socket;
    }
    if (!try_again(errno) && errno != ECONNABORTED) throw Error(ErrorCode::kComm, str("accept: ", reason(errno)));
  }
}

Socket connect_before(const std::string& host, int port, Clock::time_point deadline) {
  constexpr std::chrono::milliseconds kNap{50};
  std::string why;
  do {
    const Addresses addresses = look_up(host.c_str(), port, 0, why);
    for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next)
      if (Socket socket = connect_once(*a, deadline, why)) return socket;
    std::this_thread::sleep_for(kNap);
  } while (Clock::now() < deadline);
  throw Error(ErrorCode::kTimeout, str("cannot reach ", host, " port ", port, ": ", why));
}

bool is_loopback(const std::string& address) { return address.starts_with("127.") || address == "::1"; }

}  // namespace weft::comm::tcp
