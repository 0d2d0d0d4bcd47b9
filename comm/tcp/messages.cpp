#include "comm/tcp/messages.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string>
#include <system_error>

#include "core/error.h"

namespace weft::comm::tcp {
namespace {

/// What is left of a header and its bytes, from `done` on.
struct Pieces {
  std::array<iovec, 2> parts{};
  msghdr message{};

  Pieces(void* header, std::int64_t header_bytes, std::byte* data, std::int64_t bytes, std::int64_t done) {
    std::size_t count = 0;
    const auto add = [&](void* begin, std::int64_t length) {
      if (length > 0) parts[count++] = {begin, static_cast<std::size_t>(length)};
    };
    add(static_cast<std::byte*>(header) + std::min(done, header_bytes), header_bytes - done);
    const std::int64_t of_data = std::max<std::int64_t>(0, done - header_bytes);
    add(data + of_data, bytes - of_data);
    message.msg_iov = parts.data();
    message.msg_iovlen = count;
  }
};

[[noreturn]] void throw_lost(std::size_t peer, const std::string& why) {
  throw Error(ErrorCode::kComm, str("rank ", peer, " is gone", why.empty() ? "" : ": ", why),
              "look for the first error of any rank");
}

/// Bytes moved; 0 when the socket is not ready.
std::int64_t moved(ssize_t n, std::size_t peer) {
  if (n >= 0) return n;
  if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return 0;
  throw_lost(peer, std::generic_category().message(errno));
}

}  // namespace

void TcpMessages::receive(void* data, std::int64_t bytes, int src_rank) {
  if (bytes > 0) receives_[static_cast<std::size_t>(src_rank)].push_back({static_cast<std::byte*>(data), {}, bytes, 0});
}

void TcpMessages::send(const void* data, std::int64_t bytes, int dst_rank) {
  if (bytes == 0) return;
  auto* start = static_cast<std::byte*>(const_cast<void*>(data));  // only read
  sends_[static_cast<std::size_t>(dst_rank)].push_back({start, {collective_, bytes}, bytes, 0});
}

bool TcpMessages::advance_sends(std::size_t peer) {
  auto& queue = sends_[peer];
  bool any = false;
  while (!queue.empty()) {
    Message& m = queue.front();
    const Pieces left(&m.header, kHeaderBytes, m.data, m.bytes, m.done);
    const std::int64_t n = moved(::sendmsg(peers_[peer].get(), &left.message, MSG_NOSIGNAL | MSG_DONTWAIT), peer);
    if (n == 0) break;
    any = true;
    m.done += n;
    if (m.done == kHeaderBytes + m.bytes) queue.pop_front();
  }
  return any;
}

bool TcpMessages::advance_receives(std::size_t peer) {
  auto& queue = receives_[peer];
  bool any = false;
  while (!queue.empty()) {
    Message& m = queue.front();
    // the header alone first: the bytes behind it may be of another length
    const bool in_header = m.done < kHeaderBytes;
    const Pieces left(&m.header, kHeaderBytes, m.data, in_header ? 0 : m.bytes, m.done);
    const ssize_t result = ::recvmsg(peers_[peer].get(), const_cast<msghdr*>(&left.message), MSG_DONTWAIT);
    if (result == 0) throw_lost(peer, "");
    const std::int64_t n = moved(result, peer);
    if (n == 0) break;
    any = true;
    m.done += n;
    if (in_header && m.done == kHeaderBytes) check_header(m, peer);
    if (m.done == kHeaderBytes + m.bytes) queue.pop_front();
  }
  return any;
}

void TcpMessages::check_header(const Message& message, std::size_t peer) const {
  if (message.header.collective != collective_)
    throw Error(ErrorCode::kComm, str("rank ", peer, " is at collective ", message.header.collective,
                                      " of this group, this rank at ", collective_, ": the ranks' calls differ"));
  if (message.header.bytes != message.bytes)
    throw Error(ErrorCode::kComm, str("rank ", peer, " sent ", message.header.bytes, " bytes, ", message.bytes,
                                      " were expected: the ranks' counts differ"));
}

void TcpMessages::wait() {
  const auto deadline = timeout_.count() == 0 ? Clock::time_point::max() : Clock::now() + timeout_;
  for (;;) {
    bool any = false, all = true;
    for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
      any = advance_sends(peer) || any;
      any = advance_receives(peer) || any;
      all = all && sends_[peer].empty() && receives_[peer].empty();
    }
    if (all) return;
    if (!any) wait_for_sockets(deadline);
  }
}

void TcpMessages::wait_for_sockets(Clock::time_point deadline) {
  std::vector<pollfd> entries;
  for (std::size_t peer = 0; peer < peers_.size(); ++peer) {
    const int events = (sends_[peer].empty() ? 0 : POLLOUT) | (receives_[peer].empty() ? 0 : POLLIN);
    if (events != 0) entries.push_back({peers_[peer].get(), static_cast<short>(events), 0});
  }
  constexpr std::chrono::milliseconds kLongest{1000};
  const auto now = Clock::now();
  if (now >= deadline) throw_timeout();
  const auto nap = deadline - now < kLongest ? std::chrono::ceil<std::chrono::milliseconds>(deadline - now) : kLongest;
  if (::poll(entries.data(), entries.size(), static_cast<int>(nap.count())) < 0 && errno != EINTR)
    throw Error(ErrorCode::kComm, str("poll: ", std::generic_category().message(errno)));
}

void TcpMessages::throw_timeout() const {
  std::string ranks;
  for (std::size_t peer = 0; peer < peers_.size(); ++peer)
    if (!sends_[peer].empty() || !receives_[peer].empty()) ranks += str(ranks.empty() ? "" : ", ", peer);
  throw Error(ErrorCode::kTimeout, str("no answer from rank ", ranks, " within ", timeout_.count(), " ms"));
}

}  // namespace weft::comm::tcp
