// comm/local/local_communicator.cpp - collectives as copies between the memories of threads.
#include <algorithm>
#include <utility>
#include <vector>

#include "comm/host_buffer.h"
#include "comm/host_reduce.h"
#include "comm/local/backend.h"
#include "core/error.h"
#include "core/first_error.h"

namespace weft::comm::local {
namespace {

std::int64_t sum_before(std::span<const std::int64_t> counts, int rank) {
  std::int64_t sum = 0;
  for (int r = 0; r < rank; ++r) sum += counts[static_cast<std::size_t>(r)];
  return sum;
}

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(std::shared_ptr<Job> job, std::shared_ptr<Group> group, int rank, int size, std::string name)
      : Communicator(rank, size, DeviceKind::kCpu, std::move(name)), job_(std::move(job)), group_(std::move(group)) {}

  std::chrono::milliseconds timeout() const noexcept override { return job_->timeout(); }
  void abort(int) noexcept override { job_->abort(); }

 private:
  /// meet(), `work`, part(): what `work` throws is thrown after part(), so that peers are never left waiting.
  template <class Work>
  void collective(Offer offer, const Work& work) {
    group_->meet(rank(), std::move(offer));
    FirstError error;
    error.run(work);
    group_->part(rank());
    error.rethrow();
  }

  template <class... Args>
  void require(bool holds, const Args&... args) const {
    if (holds) return;
    throw Error(ErrorCode::kInvalidArgument, str("rank ", rank(), " of ", size(), " (group ", name(), "): ", args...));
  }

  /// All ranks must have called the same thing. Every rank finds the same answer.
  void check_same_call() const {
    const Offer& first = group_->offer(0);
    for (int r = 1; r < size(); ++r) {
      const Offer& other = group_->offer(r);
      require(other.collective == first.collective, "rank 0 called ", first.collective, ", rank ", r, " called ",
              other.collective);
      require(other.send.dtype == first.send.dtype && other.op == first.op && other.root == first.root,
              first.collective, ": ranks 0 and ", r, " differ in dtype, operation or root");
    }
  }

  std::vector<const void*> sources(std::int64_t element) const {
    std::vector<const void*> result(static_cast<std::size_t>(size()));
    for (int r = 0; r < size(); ++r) result[static_cast<std::size_t>(r)] = at(group_->offer(r).send, element);
    return result;
  }

  /// Rank r reduces block r of all ranks into its own recv; then everybody copies the blocks of the others. In place
  /// works: in the first half only rank r touches block r of rank r's memory, and nobody else reads it.
  void do_all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream&) override {
    group_->meet(rank(), {.collective = "all_reduce", .send = send, .recv = recv, .op = op});
    const auto first_of = [&](int r) { return send.count * r / size(); };
    FirstError error;
    error.run([&] {
      check_same_call();
      for (int r = 0; r < size(); ++r)
        require(group_->offer(r).send.count == send.count, "all_reduce of ", send.count, " elements, rank ", r, " has ",
                group_->offer(r).send.count);
      const std::int64_t first = first_of(rank()), count = first_of(rank() + 1) - first;
      reduce_in_rank_order(at(recv, first), sources(first), count, send.dtype, op);
    });
    group_->part(rank());
    error.rethrow();  // all ranks find the same fault
    for (int r = 0; r < size(); ++r) {
      if (r == rank()) continue;
      const std::int64_t first = first_of(r), bytes = (first_of(r + 1) - first) * size_of(send.dtype);
      copy_bytes(at(recv, first), at(group_->offer(r).recv, first), bytes);
    }
    group_->part(rank());
  }

  void do_all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream&) override {
    collective({.collective = "all_gather_v", .send = send, .recv = recv, .counts = counts}, [&] {
      check_same_call();
      std::int64_t first = 0;
      for (int r = 0; r < size(); ++r) {
        const std::int64_t count = counts[static_cast<std::size_t>(r)];
        const ConstBuffer share = group_->offer(r).send;
        require(share.count == count, "all_gather_v: counts[", r, "] = ", count, ", rank ", r, " gives ", share.count);
        copy_bytes(at(recv, first), share.data, count * size_of(recv.dtype));
        first += count;
      }
    });
  }

  void do_reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream&) override {
    collective({.collective = "reduce_scatter_v", .send = send, .recv = recv, .counts = counts, .op = op}, [&] {
      check_same_call();
      for (int r = 0; r < size(); ++r)
        require(std::ranges::equal(group_->offer(r).counts, counts), "reduce_scatter_v: rank ", r, " has other counts");
      reduce_in_rank_order(recv.data, sources(sum_before(counts, rank())), recv.count, recv.dtype, op);
    });
  }

  void do_all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts, Stream&) override {
    collective({.collective = "all_to_all_v", .send = send, .recv = recv, .counts = send_counts}, [&] {
      check_same_call();
      std::int64_t first = 0;
      for (int r = 0; r < size(); ++r) {
        const Offer& peer = group_->offer(r);
        const std::int64_t count = recv_counts[static_cast<std::size_t>(r)];
        const std::int64_t sent = peer.counts[static_cast<std::size_t>(rank())];
        require(sent == count, "all_to_all_v: ", count, " elements expected from rank ", r, ", it sends ", sent);
        copy_bytes(at(recv, first), at(peer.send, sum_before(peer.counts, rank())), count * size_of(recv.dtype));
        first += count;
      }
    });
  }

  void do_broadcast(Buffer buffer, int root, Stream&) override {
    collective({.collective = "broadcast", .send = buffer, .recv = buffer, .root = root}, [&] {
      check_same_call();
      const ConstBuffer from = group_->offer(root).send;
      require(from.count == buffer.count, "broadcast of ", buffer.count, " elements, root ", root, " has ", from.count);
      copy_bytes(buffer.data, from.data, bytes_of(buffer));
    });
  }

  void do_send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream&) override {
    collective({.collective = "send_recv", .sends = sends}, [&] {
      check_same_call();
      for (int peer = 0; peer < size(); ++peer) receive_from(peer, recvs);
    });
  }

  void receive_from(int peer, std::span<const RecvOp> recvs) const {
    const std::span<const SendOp> sends = group_->offer(peer).sends;
    auto next = sends.begin();
    const auto advance = [&] { next = std::find_if(next, sends.end(), [&](auto& s) { return s.dst_rank == rank(); }); };
    for (const RecvOp& r : recvs) {
      if (r.src_rank != peer) continue;
      advance();
      require(next != sends.end(), "send_recv: more messages expected from rank ", peer, " than it sends");
      const ConstBuffer from = next->buffer;
      require(from.count == r.buffer.count && from.dtype == r.buffer.dtype, "send_recv: ", r.buffer.count, " ",
              to_string(r.buffer.dtype), " expected from rank ", peer, ", it sends ", from.count, " ",
              to_string(from.dtype));
      copy_bytes(r.buffer.data, from.data, bytes_of(from));
      ++next;
    }
    advance();
    require(next == sends.end(), "send_recv: rank ", peer, " sends more messages than expected");
  }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string_view child) override {
    std::vector<std::pair<int, int>> members;  // (key, rank) of my color
    collective({.collective = "split", .color = color, .key = key}, [&] {
      check_same_call();
      for (int r = 0; r < size(); ++r)
        if (group_->offer(r).color == color) members.emplace_back(group_->offer(r).key, r);
      std::sort(members.begin(), members.end());
      if (color >= 0 && members.front().second == rank())
        group_->offer(rank()).made = job_->make_group(static_cast<int>(members.size()), child_name(color, child));
    });
    const int first = members.front().second, child_size = static_cast<int>(members.size());
    const std::shared_ptr<Group> made = group_->offer(first).made;
    group_->part(rank());
    if (color < 0) return nullptr;
    const auto me = std::find(members.begin(), members.end(), std::pair(key, rank()));
    return make_communicator(job_, made, static_cast<int>(me - members.begin()), child_size, child_name(color, child));
  }

  std::shared_ptr<Job> job_;
  std::shared_ptr<Group> group_;
};

}  // namespace

std::unique_ptr<Communicator> make_communicator(std::shared_ptr<Job> job, std::shared_ptr<Group> group, int rank,
                                                int size, std::string name) {
  return std::make_unique<LocalCommunicator>(std::move(job), std::move(group), rank, size, std::move(name));
}

}  // namespace weft::comm::local
