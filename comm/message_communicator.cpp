#include "comm/message_communicator.h"

#include <algorithm>
#include <utility>

#include "comm/host_buffer.h"
#include "comm/host_reduce.h"
#include "core/error.h"

namespace weft::comm {
namespace {

constexpr std::int64_t kGatherBytes = 4096;  // up to here one round of P messages beats two rounds of shorter ones

std::vector<std::int64_t> offsets_of(std::span<const std::int64_t> counts) {
  std::vector<std::int64_t> offsets(counts.size() + 1, 0);
  for (std::size_t r = 0; r < counts.size(); ++r) offsets[r + 1] = offsets[r] + counts[r];
  return offsets;
}

}  // namespace

void MessageCommunicator::collective(std::string_view what, const std::function<void()>& work) {
  ++num_begun_;
  try {
    work();
  } catch (const Error& e) {
    broken();
    throw Error(e.code(), str(what, " on rank ", rank(), " of ", size(), " (group ", name(), "): ", e.message()),
                e.hint());
  }
}

/// Element [first(r), first(r) + count(r)) of `recv` comes from rank r, which has it at the same place; `recv` holds
/// this rank's own share already.
template <class First>
void MessageCommunicator::gather_in_place(Buffer recv, const First& first) {
  const auto together = messages();
  const auto bytes = [&](int r) { return (first(r + 1) - first(r)) * size_of(recv.dtype); };
  for (int k = 1; k < size(); ++k) together->receive(at(recv, first(from_peer(k))), bytes(from_peer(k)), from_peer(k));
  for (int k = 1; k < size(); ++k) together->send(at(recv, first(rank())), bytes(rank()), to_peer(k));
  together->wait();
}

/// Sends [first(r), first(r) + count(r)) of `send` to rank r, and reduces what the others send, and this rank's own
/// part, into `out` [count(rank)].
template <class First, class Count>
void MessageCommunicator::exchange_and_reduce(ConstBuffer send, const First& first, const Count& count, void* out,
                                              ReduceOp op) {
  const std::int64_t mine = count(rank()), element_bytes = size_of(send.dtype);
  const std::int64_t needed = mine * element_bytes * size();
  if (static_cast<std::int64_t>(scratch_.size()) < needed) scratch_.resize(static_cast<std::size_t>(needed));
  std::vector<const void*> sources(static_cast<std::size_t>(size()), at(send, first(rank())));
  const auto together = messages();
  for (int k = 1; k < size(); ++k) {
    void* slot = scratch_.data() + mine * element_bytes * from_peer(k);
    together->receive(slot, mine * element_bytes, from_peer(k));
    sources[static_cast<std::size_t>(from_peer(k))] = slot;
  }
  for (int k = 1; k < size(); ++k)
    together->send(at(send, first(to_peer(k))), count(to_peer(k)) * element_bytes, to_peer(k));
  together->wait();
  reduce_in_rank_order(out, sources, mine, send.dtype, op);
}

/// Elements of one rank's block that a reduction works on at a time, so that its scratch stays within the limit.
std::int64_t MessageCommunicator::block_limit(DType dtype) const {
  return std::max<std::int64_t>(1, scratch_bytes_ / (size_of(dtype) * size()));
}

void MessageCommunicator::do_all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream&) {
  collective("all_reduce", [&] {
    const std::int64_t bytes = bytes_of(send);
    if (bytes <= kGatherBytes && bytes * size() <= scratch_bytes_) {  // everyone reduces everything
      exchange_and_reduce(
          send, [](int) { return std::int64_t{0}; }, [&](int) { return send.count; }, recv.data, op);
      return;
    }
    const std::int64_t piece = block_limit(send.dtype) * size();
    for (std::int64_t begin = 0; begin < send.count; begin += piece) {
      const std::int64_t length = std::min(piece, send.count - begin);
      const auto first = [&](int r) { return begin + length * r / size(); };
      const auto count = [&](int r) { return first(r + 1) - first(r); };
      exchange_and_reduce(send, first, count, at(recv, first(rank())), op);
      gather_in_place(recv, first);
    }
  });
}

void MessageCommunicator::do_all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream&) {
  collective("all_gather_v", [&] {
    const auto offsets = offsets_of(counts);
    const auto first = [&](int r) { return offsets[static_cast<std::size_t>(r)]; };
    copy_bytes(at(recv, first(rank())), send.data, bytes_of(send));
    gather_in_place(recv, first);
  });
}

void MessageCommunicator::do_reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream&) {
  collective("reduce_scatter_v", [&] {
    const auto offsets = offsets_of(counts);
    const std::int64_t longest = *std::max_element(counts.begin(), counts.end()), limit = block_limit(send.dtype);
    for (std::int64_t begin = 0; begin < longest; begin += limit) {
      const auto first = [&](int r) { return offsets[static_cast<std::size_t>(r)] + begin; };
      const auto count = [&](int r) {
        return std::clamp<std::int64_t>(counts[static_cast<std::size_t>(r)] - begin, 0, limit);
      };
      exchange_and_reduce(send, first, count, at(recv, begin), op);
    }
  });
}

void MessageCommunicator::do_all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts,
                                          Stream&) {
  collective("all_to_all_v", [&] {
    const auto from = offsets_of(send_counts), to = offsets_of(recv_counts);
    const std::int64_t element_bytes = size_of(send.dtype);
    const auto together = messages();
    for (int k = 1; k < size(); ++k) {
      const auto r = static_cast<std::size_t>(from_peer(k));
      together->receive(at(recv, to[r]), recv_counts[r] * element_bytes, from_peer(k));
    }
    for (int k = 1; k < size(); ++k) {
      const auto r = static_cast<std::size_t>(to_peer(k));
      together->send(at(send, from[r]), send_counts[r] * element_bytes, to_peer(k));
    }
    const auto me = static_cast<std::size_t>(rank());
    copy_bytes(at(recv, to[me]), at(send, from[me]), send_counts[me] * element_bytes);
    together->wait();
  });
}

/// Binomial tree: in round d, ranks below 2^d (counted from the root) send to the rank 2^d further.
void MessageCommunicator::do_broadcast(Buffer buffer, int root, Stream&) {
  collective("broadcast", [&] {
    const std::int64_t bytes = bytes_of(buffer);
    const int place = (rank() - root + size()) % size();
    int distance = 1;
    for (; distance <= place; distance *= 2) {
    }
    if (place > 0) {
      const auto from_parent = messages();
      from_parent->receive(buffer.data, bytes, (place - distance / 2 + root) % size());
      from_parent->wait();
    }
    const auto to_children = messages();
    for (; place + distance < size(); distance *= 2)
      to_children->send(buffer.data, bytes, (place + distance + root) % size());
    to_children->wait();
  });
}

void MessageCommunicator::do_send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream&) {
  collective("send_recv", [&] {
    const auto together = messages();
    std::vector<RecvOp> from_self;
    for (const RecvOp& r : recvs) {
      if (r.src_rank == rank())
        from_self.push_back(r);
      else
        together->receive(r.buffer.data, bytes_of(r.buffer), r.src_rank);
    }
    std::size_t next_from_self = 0;
    for (const SendOp& s : sends) {
      const std::int64_t bytes = bytes_of(s.buffer);
      if (s.dst_rank == rank())
        copy_bytes(from_self[next_from_self++].buffer.data, s.buffer.data, bytes);
      else
        together->send(s.buffer.data, bytes, s.dst_rank);
    }
    together->wait();
  });
}

void MessageCommunicator::meet() {
  const char token = 1;
  std::vector<char> tokens(static_cast<std::size_t>(size()));
  const auto together = messages();
  for (int k = 1; k < size(); ++k) together->receive(&tokens[static_cast<std::size_t>(from_peer(k))], 1, from_peer(k));
  for (int k = 1; k < size(); ++k) together->send(&token, 1, to_peer(k));
  together->wait();
}

}  // namespace weft::comm
