#include "comm/communicator.h"

#include <algorithm>
#include <vector>

#include "comm/host_buffer.h"
#include "core/error.h"

namespace weft::comm {
namespace {

using Counts = std::span<const std::int64_t>;

/// "all_reduce on rank 1 of 4 (group world): ".
std::string where(const Communicator& comm, std::string_view collective) {
  return str(collective, " on rank ", comm.rank(), " of ", comm.size(), " (group ", comm.name(), "): ");
}

bool is_numeric(DType dtype) { return dtype != DType::kU8; }

bool overlap(ConstBuffer a, ConstBuffer b) {
  const auto begin = [](ConstBuffer x) { return reinterpret_cast<std::uintptr_t>(x.data); };
  const auto end = [&](ConstBuffer x) { return begin(x) + static_cast<std::uintptr_t>(x.count * size_of(x.dtype)); };
  return a.count > 0 && b.count > 0 && begin(a) < end(b) && begin(b) < end(a);
}

/// One collective's checks: everything this rank can see by itself.
class Check {
 public:
  Check(const Communicator& comm, std::string_view collective, const Stream& stream)
      : comm_(comm), collective_(collective) {
    require(stream.device().kind == comm.device_kind(), "the stream's device is of another kind than the group's");
  }

  template <class... Args>
  void require(bool holds, const Args&... args) const {
    if (!holds) throw Error(ErrorCode::kInvalidArgument, where(comm_, collective_) + str(args...));
  }
  void buffer(ConstBuffer b, std::string_view what) const {
    require(b.count >= 0, what, " has a count of ", b.count);
    require(b.count == 0 || b.data != nullptr, what, " is null with a count of ", b.count);
  }
  void pair(ConstBuffer send, ConstBuffer recv) const {
    buffer(send, "send");
    buffer(recv, "recv");
    require(send.dtype == recv.dtype, "send is ", to_string(send.dtype), ", recv is ", to_string(recv.dtype));
  }
  void numeric(DType dtype) const {
    require(is_numeric(dtype), "cannot reduce ", to_string(dtype), "; use F32, F64, BF16, I32 or I64");
  }
  void counts(Counts counts, std::int64_t total, std::string_view what) const {
    require(counts.size() == static_cast<std::size_t>(comm_.size()), what, ": ", counts.size(), " entries for ",
            comm_.size(), " ranks");
    std::int64_t sum = 0;
    for (std::size_t r = 0; r < counts.size(); ++r) {
      require(counts[r] >= 0, what, "[", r, "] = ", counts[r]);
      require(counts[r] <= total - sum, what, " sum to more than the buffer's ", total, " elements");
      sum += counts[r];
    }
    require(sum == total, what, " sum to ", sum, ", the buffer has ", total, " elements");
  }
  void share(Counts counts, std::int64_t count, std::string_view what) const {
    const std::int64_t mine = counts[static_cast<std::size_t>(comm_.rank())];
    require(mine == count, what, " has ", count, " elements, counts[", comm_.rank(), "] = ", mine);
  }
  void peer(int peer_rank, std::string_view what) const {
    require(peer_rank >= 0 && peer_rank < comm_.size(), what, " ", peer_rank, " is not in [0, ", comm_.size(), ")");
  }

 private:
  const Communicator& comm_;
  std::string_view collective_;
};

const void* share_in(ConstBuffer whole, Counts counts, int rank) {
  std::int64_t first = 0;
  for (int r = 0; r < rank; ++r) first += counts[static_cast<std::size_t>(r)];
  return static_cast<const std::byte*>(whole.data) + first * size_of(whole.dtype);
}

/// Messages of this rank to itself must pair up in order: seen here, before anything is sent.
void check_self_messages(const Check& check, std::span<const SendOp> sends, std::span<const RecvOp> recvs, int rank) {
  std::vector<ConstBuffer> sent, received;
  for (const SendOp& s : sends)
    if (s.dst_rank == rank) sent.push_back(s.buffer);
  for (const RecvOp& r : recvs)
    if (r.src_rank == rank) received.push_back(r.buffer);
  check.require(sent.size() == received.size(), sent.size(), " messages to itself, ", received.size(), " received");
  for (std::size_t i = 0; i < sent.size(); ++i) {
    check.require(sent[i].count == received[i].count && sent[i].dtype == received[i].dtype, "message ", i,
                  " to itself: ", sent[i].count, " ", to_string(sent[i].dtype), " sent, ", received[i].count, " ",
                  to_string(received[i].dtype), " expected");
  }
}

void check_received_apart(const Check& check, std::span<const SendOp> sends, std::span<const RecvOp> recvs) {
  for (std::size_t i = 0; i < recvs.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j)
      check.require(!overlap(recvs[i].buffer, recvs[j].buffer), "receives ", j, " and ", i, " overlap");
    for (std::size_t j = 0; j < sends.size(); ++j)
      check.require(!overlap(recvs[i].buffer, sends[j].buffer), "send ", j, " and receive ", i, " overlap");
  }
}

}  // namespace

void Communicator::count(Collective collective, int dst_rank, std::int64_t bytes) noexcept {
  if (dst_rank == rank_ || !counts_) return;
  traffic_->add(collective, world_rank(dst_rank), bytes);
}

void Communicator::join_traffic(const Communicator& parent) {
  const auto stream = make_inline_stream();
  const std::int32_t mine = parent.world_rank(parent.rank_);
  std::vector<std::int32_t> all(static_cast<std::size_t>(size_));
  all_gather(*this, as_buffer(&mine, 1), as_buffer(all.data(), size_), *stream);
  world_ranks_.assign(all.begin(), all.end());
  traffic_ = parent.traffic_;
}

void Communicator::all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream) {
  const Check check(*this, "all_reduce", stream);
  check.pair(send, recv);
  check.numeric(send.dtype);
  check.require(send.count == recv.count, "send has ", send.count, " elements, recv ", recv.count);
  check.require(send.data == recv.data || !overlap(send, recv), "send and recv overlap but are not equal");
  do_all_reduce(send, recv, op, stream);
  const auto block = [&](int r) {  // reduced by rank r, then given to all
    return (send.count * (r + 1) / size_ - send.count * r / size_) * size_of(send.dtype);
  };
  for (int r = 0; r < size_; ++r) count(Collective::kAllReduce, r, block(r) + block(rank_));
}

void Communicator::all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream& stream) {
  const Check check(*this, "all_gather_v", stream);
  check.pair(send, recv);
  check.counts(counts, recv.count, "counts");
  check.share(counts, send.count, "send");
  check.require(!overlap(send, recv) || send.data == share_in(recv, counts, rank_),
                "send overlaps recv but is not this rank's share of it");
  do_all_gather_v(send, recv, counts, stream);
  for (int r = 0; r < size_; ++r) count(Collective::kAllGather, r, bytes_of(send));
}

void Communicator::reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream& stream) {
  const Check check(*this, "reduce_scatter_v", stream);
  check.pair(send, recv);
  check.numeric(send.dtype);
  check.counts(counts, send.count, "counts");
  check.share(counts, recv.count, "recv");
  check.require(!overlap(send, recv), "send and recv overlap");
  do_reduce_scatter_v(send, recv, counts, op, stream);
  for (int r = 0; r < size_; ++r)
    count(Collective::kReduceScatter, r, counts[static_cast<std::size_t>(r)] * size_of(send.dtype));
}

void Communicator::all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts, Stream& stream) {
  const Check check(*this, "all_to_all_v", stream);
  check.pair(send, recv);
  check.counts(send_counts, send.count, "send_counts");
  check.counts(recv_counts, recv.count, "recv_counts");
  const auto mine = static_cast<std::size_t>(rank_);
  check.require(send_counts[mine] == recv_counts[mine], "sends itself ", send_counts[mine], " elements, expects ",
                recv_counts[mine]);
  check.require(!overlap(send, recv), "send and recv overlap");
  do_all_to_all_v(send, send_counts, recv, recv_counts, stream);
  for (int r = 0; r < size_; ++r)
    count(Collective::kAllToAll, r, send_counts[static_cast<std::size_t>(r)] * size_of(send.dtype));
}

void Communicator::broadcast(Buffer buffer, int root, Stream& stream) {
  const Check check(*this, "broadcast", stream);
  check.buffer(buffer, "buffer");
  check.peer(root, "root");
  do_broadcast(buffer, root, stream);
  for (int r = 0; r < size_ && rank_ == root; ++r) count(Collective::kBroadcast, r, bytes_of(buffer));
}

void Communicator::send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream& stream) {
  const Check check(*this, "send_recv", stream);
  for (const SendOp& s : sends) {
    check.buffer(s.buffer, "a send buffer");
    check.peer(s.dst_rank, "dst_rank");
  }
  for (const RecvOp& r : recvs) {
    check.buffer(r.buffer, "a receive buffer");
    check.peer(r.src_rank, "src_rank");
  }
  check_self_messages(check, sends, recvs, rank_);
  check_received_apart(check, sends, recvs);
  do_send_recv(sends, recvs, stream);
  for (const SendOp& s : sends) count(Collective::kSendRecv, s.dst_rank, bytes_of(s.buffer));
}

std::unique_ptr<Communicator> Communicator::split(int color, int key, std::string_view name) {
  auto group = do_split(color, key, name);
  if (group && group->device_kind() == DeviceKind::kCpu) group->join_traffic(*this);  // others have their host's
  return group;
}

std::string Communicator::child_name(int color, std::string_view name) const {
  return str(name_, ".", name, "[", color, "]");
}

TrafficMatrix gather_traffic(Communicator& world, Stream& stream) {
  const std::vector<std::int64_t> mine = world.traffic().sent_bytes();
  const auto by_collective = world.traffic().by_collective();
  TrafficMatrix out;
  out.num_ranks = world.size();
  out.sent_bytes.resize(mine.size() * mine.size());
  all_gather(world, as_buffer(mine.data(), world.size()),
             as_buffer(out.sent_bytes.data(), static_cast<std::int64_t>(out.sent_bytes.size())), stream);
  world.all_reduce(as_buffer(by_collective.data(), kNumCollectives),
                   as_buffer(out.by_collective.data(), kNumCollectives), ReduceOp::kSum, stream);
  return out;
}

void all_gather(Communicator& comm, ConstBuffer send, Buffer recv, Stream& stream) {
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(comm.size()), send.count);
  comm.all_gather_v(send, recv, counts, stream);
}

void reduce_scatter(Communicator& comm, ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream) {
  const std::vector<std::int64_t> counts(static_cast<std::size_t>(comm.size()), recv.count);
  comm.reduce_scatter_v(send, recv, counts, op, stream);
}

void barrier(Communicator& comm, Stream& stream) {
  WEFT_CHECK(comm.device_kind() == DeviceKind::kCpu, "barrier: group ", comm.name(), " has no host memory");
  std::int32_t one = 1;
  const Buffer buffer = as_buffer(&one, 1);
  comm.all_reduce(buffer, buffer, ReduceOp::kSum, stream);
}

}  // namespace weft::comm
