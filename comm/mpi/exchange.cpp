#include "comm/mpi/exchange.h"

#include <algorithm>
#include <set>
#include <string>
#include <thread>

#include "comm/mpi/mpi_scope.h"
#include "core/error.h"

namespace weft::comm::mpi {
namespace {

using Clock = std::chrono::steady_clock;

// A wait has three phases. Measured with 4 ranks on 2 cores: over shared memory, sleeping through a long transfer
// halves its bandwidth, as data moves on in our polls only, and spinning through it takes the core from the peer that
// must copy: 3 times slower.
constexpr double kSpinUs = 20;  // poll only: a peer that is here answers within this
// Then poll and yield for as long as the bytes may take (Pace); then poll and sleep: the core is for compute threads
// and other ranks. Each nap takes a core from computation when it ends, and its caches with it (steps of overlapping
// policies were 14 % slower with naps of 20 to 200 us), so: sleep for most of the time that the bytes are known to
// take, and after that, the longer the wait has been, the longer.
constexpr double kShortestNapUs = 50, kLongestNapUs = 1000;
constexpr double kNapBytes = 64 << 10;  // what the sockets' buffers hold meanwhile
constexpr double kShareOfRest = 0.5, kShareOfWait = 0.25;
constexpr std::int64_t kLongExchange = 64 << 10;  // bytes from which on the wire, not the start, takes the time
constexpr double kForget = 1.02;                  // links get slower, too

void nap(double us) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::micro>(std::clamp(us, kShortestNapUs, kLongestNapUs)));
}

}  // namespace

void Exchange::add(const Message& message) {
  if (message.bytes == 0) return;
  messages_.push_back(message);
  oldest_.push_back(MPI_REQUEST_NULL);
  total_bytes_ += message.bytes;
  post(message.peer, message.is_receive);
}

void Exchange::post(int peer, bool is_receive) {
  for (std::size_t i = 0; i < messages_.size(); ++i) {
    Message& m = messages_[i];
    if (m.peer != peer || m.is_receive != is_receive) continue;
    while (m.under_way < kWindow && m.posted < m.bytes) post_piece(m);
    if (m.under_way > 0) oldest_[i] = m.requests[static_cast<std::size_t>(m.first)];
    if (m.posted < m.bytes) return;
  }
}

void Exchange::post_piece(Message& m) {
  const int length = static_cast<int>(std::min(options_.piece_bytes, m.bytes - m.posted));
  MPI_Request& request = m.requests[static_cast<std::size_t>((m.first + m.under_way) % kWindow)];
  if (m.is_receive)
    WEFT_MPI_CHECK(MPI_Irecv(m.data + m.posted, length, MPI_BYTE, m.peer, tag_, comm_, &request));
  else
    WEFT_MPI_CHECK(MPI_Isend(m.data + m.posted, length, MPI_BYTE, m.peer, tag_, comm_, &request));
  m.posted += length;
  ++m.under_way;
}

void Exchange::wait() {
  indices_.resize(messages_.size());
  statuses_.resize(messages_.size());
  const auto start = Clock::now();
  const double polled_us =
      kSpinUs + (pace_.polled_bytes_per_us > 0 ? double(total_bytes_ / pace_.polled_bytes_per_us) : 0.0);
  const double expected_us = pace_.us_per_byte * static_cast<double>(total_bytes_);
  const auto waited = [start] { return std::chrono::duration<double, std::micro>(Clock::now() - start).count(); };
  while (num_done_ < messages_.size()) {
    if (advance()) continue;
    const double waited_us = waited();
    if (options_.timeout.count() > 0 && waited_us > 1e3 * static_cast<double>(options_.timeout.count()))
      throw_timeout();
    if (waited_us > polled_us)
      nap(waited_us < expected_us
              ? std::min({kShareOfRest * (expected_us - waited_us), waited_us, kNapBytes * pace_.us_per_byte})
              : kShareOfWait * waited_us);
    else if (waited_us > kSpinUs)
      std::this_thread::yield();
  }
  if (total_bytes_ < kLongExchange) return;
  const double took = waited() / static_cast<double>(total_bytes_);
  pace_.us_per_byte = pace_.us_per_byte > 0.0 ? std::min(took, kForget * pace_.us_per_byte) : took;
}

bool Exchange::advance() {
  int num = 0;
  const int status =
      MPI_Testsome(static_cast<int>(oldest_.size()), oldest_.data(), &num, indices_.data(), statuses_.data());
  if (status != MPI_ERR_IN_STATUS) WEFT_MPI_CHECK(status);
  if (num == MPI_UNDEFINED) return false;
  for (std::size_t i = 0; i < static_cast<std::size_t>(num); ++i) {
    Message& m = messages_[static_cast<std::size_t>(indices_[i])];
    if (status == MPI_ERR_IN_STATUS && statuses_[i].MPI_ERROR != MPI_SUCCESS)
      check(statuses_[i].MPI_ERROR,
            str("message of ", m.bytes, " bytes ", m.is_receive ? "from" : "to", " rank ", m.peer).c_str());
    finish_piece(m, statuses_[i]);
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(num); ++i) {  // once all that is done is known to be
    const Message& m = messages_[static_cast<std::size_t>(indices_[i])];
    post(m.peer, m.is_receive);
  }
  return num > 0;
}

void Exchange::finish_piece(Message& m, const MPI_Status& status) {
  const auto wanted = static_cast<int>(std::min(options_.piece_bytes, m.bytes - m.done));
  int length = wanted;
  if (m.is_receive) WEFT_MPI_CHECK(MPI_Get_count(&status, MPI_BYTE, &length));
  if (length != wanted)
    throw Error(ErrorCode::kComm, str("rank ", m.peer, " sent ", m.done + length, " bytes, ", m.bytes,
                                      " were expected: the ranks' counts differ"));
  m.done += length;
  m.first = (m.first + 1) % kWindow;
  --m.under_way;
  if (m.done == m.bytes) ++num_done_;
}

void Exchange::throw_timeout() {
  std::set<int> missing;
  for (std::size_t i = 0; i < messages_.size(); ++i) {
    Message& m = messages_[i];
    if (m.done == m.bytes) continue;
    missing.insert(m.peer);
    m.requests[static_cast<std::size_t>(m.first)] = oldest_[i];
    for (int k = 0; k < m.under_way && m.is_receive; ++k)  // the caller's memory may go away now
      static_cast<void>(MPI_Cancel(&m.requests[static_cast<std::size_t>((m.first + k) % kWindow)]));
  }
  std::string ranks;
  for (const int r : missing) ranks += str(ranks.empty() ? "" : ", ", r);
  throw Error(ErrorCode::kTimeout, str("no answer from rank ", ranks, " within ", options_.timeout.count(), " ms"));
}

}  // namespace weft::comm::mpi
