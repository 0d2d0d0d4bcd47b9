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

// A wait has three phases. Measured with 4 ranks on 2 cores: sleeping through a long transfer halves its bandwidth, as
// data moves on in our polls only; spinning through it takes the core from the peer that must copy: 3 times slower.
constexpr std::chrono::microseconds kSpin{20};      // poll only: a peer that is here answers within this
constexpr std::int64_t kTransferBytesPerUs = 2000;  // then poll and yield for as long as the bytes may take
constexpr std::chrono::microseconds kSleep{50};  // then poll and sleep: the core is for compute threads and other ranks

template <class Post>
void for_each_piece(std::int64_t bytes, std::int64_t limit, const Post& post) {
  for (std::int64_t first = 0; first < bytes; first += limit)
    post(first, static_cast<int>(std::min(limit, bytes - first)));
}

}  // namespace

void Exchange::receive(void* data, std::int64_t bytes, int src_rank) {
  for_each_piece(bytes, options_.max_message_bytes, [&](std::int64_t first, int length) {
    posted_.push_back({src_rank, length, true});
    requests_.push_back(MPI_REQUEST_NULL);
    WEFT_MPI_CHECK(
        MPI_Irecv(static_cast<std::byte*>(data) + first, length, MPI_BYTE, src_rank, tag_, comm_, &requests_.back()));
  });
  total_bytes_ += bytes;
}

void Exchange::send(const void* data, std::int64_t bytes, int dst_rank) {
  for_each_piece(bytes, options_.max_message_bytes, [&](std::int64_t first, int length) {
    posted_.push_back({dst_rank, length, false});
    requests_.push_back(MPI_REQUEST_NULL);
    WEFT_MPI_CHECK(MPI_Isend(static_cast<const std::byte*>(data) + first, length, MPI_BYTE, dst_rank, tag_, comm_,
                             &requests_.back()));
  });
  total_bytes_ += bytes;
}

void Exchange::wait() {
  statuses_.resize(requests_.size());
  const auto start = Clock::now();
  const auto spin_end = start + kSpin;
  const auto transfer_end = spin_end + std::chrono::microseconds(total_bytes_ / kTransferBytesPerUs);
  while (!test()) {
    const auto now = Clock::now();
    if (options_.timeout.count() > 0 && now - start > options_.timeout) throw_timeout();
    if (now > transfer_end)
      std::this_thread::sleep_for(kSleep);
    else if (now > spin_end)
      std::this_thread::yield();
  }
  for (std::size_t i = 0; i < posted_.size(); ++i) check_length(posted_[i], statuses_[i]);
}

bool Exchange::test() {
  int done = 0;
  const int status = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, statuses_.data());
  if (status == MPI_ERR_IN_STATUS) {
    for (std::size_t i = 0; i < posted_.size(); ++i) {
      if (statuses_[i].MPI_ERROR == MPI_SUCCESS || statuses_[i].MPI_ERROR == MPI_ERR_PENDING) continue;
      check(statuses_[i].MPI_ERROR, str("message of ", posted_[i].bytes, " bytes ",
                                        posted_[i].is_receive ? "from" : "to", " rank ", posted_[i].peer)
                                        .c_str());
    }
  }
  WEFT_MPI_CHECK(status);
  return done != 0;
}

void Exchange::throw_timeout() {
  std::set<int> missing;
  for (std::size_t i = 0; i < requests_.size(); ++i) {
    int done = 0;
    WEFT_MPI_CHECK(MPI_Test(&requests_[i], &done, MPI_STATUS_IGNORE));
    if (done != 0) continue;
    missing.insert(posted_[i].peer);
    if (posted_[i].is_receive) static_cast<void>(MPI_Cancel(&requests_[i]));  // the caller's memory may go away now
  }
  std::string ranks;
  for (const int r : missing) ranks += str(ranks.empty() ? "" : ", ", r);
  throw Error(ErrorCode::kTimeout, str("no answer from rank ", ranks, " within ", options_.timeout.count(), " ms"));
}

void Exchange::check_length(const Posted& posted, const MPI_Status& status) const {
  if (!posted.is_receive) return;
  int length = 0;
  WEFT_MPI_CHECK(MPI_Get_count(&status, MPI_BYTE, &length));
  if (length == posted.bytes) return;
  throw Error(ErrorCode::kComm, str("rank ", posted.peer, " sent ", length, " bytes, ", posted.bytes,
                                    " were expected: the ranks' counts differ"));
}

}  // namespace weft::comm::mpi
