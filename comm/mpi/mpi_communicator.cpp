// comm/mpi/mpi_communicator.cpp - collectives on host memory over nonblocking MPI messages.
//
// Direct algorithms over point-to-point messages, for three reasons: the order of every sum is ours (the same as the
// local backend's, so results agree bit for bit), one wait serves all (deadline, sleeping, naming who is missing), and
// no length is limited by MPI's int counts, and long messages go in pieces. Each moves the least bytes per rank that
// its collective allows (comm/cost.h).
#include <mpi.h>

#include <algorithm>
#include <exception>
#include <utility>
#include <vector>

#include "comm/host_buffer.h"
#include "comm/host_reduce.h"
#include "comm/mpi/exchange.h"
#include "comm/mpi/mpi_scope.h"
#include "core/error.h"
#include "core/log.h"

namespace weft::comm::mpi {
namespace {

constexpr std::int64_t kGatherBytes = 4096;  // up to here one round of P messages beats two rounds of shorter ones
constexpr int kNumTags = 32768;              // the tag bound that every MPI offers

/// Owns one communicator handle. A handle of a failed group is left alone: freeing it may wait for peers that are gone.
class CommHandle {
 public:
  CommHandle(std::shared_ptr<MpiScope> scope, MPI_Comm comm) noexcept
      : scope_(std::move(scope)), comm_(comm), exceptions_(std::uncaught_exceptions()) {}
  CommHandle(const CommHandle&) = delete;
  CommHandle& operator=(const CommHandle&) = delete;
  ~CommHandle() {
    if (scope_->is_broken() || std::uncaught_exceptions() > exceptions_) return;
    if (const int status = MPI_Comm_free(&comm_); status != MPI_SUCCESS)
      log()->error("MPI_Comm_free: status {}", status);
  }
  [[nodiscard]] MPI_Comm get() const noexcept { return comm_; }
  [[nodiscard]] const std::shared_ptr<MpiScope>& scope() const noexcept { return scope_; }

 private:
  std::shared_ptr<MpiScope> scope_;  // before the handle: MPI goes last
  MPI_Comm comm_;
  int exceptions_;
};

int rank_in(MPI_Comm comm) {
  int rank = 0;
  WEFT_MPI_CHECK(MPI_Comm_rank(comm, &rank));
  return rank;
}

int size_of_group(MPI_Comm comm) {
  int size = 0;
  WEFT_MPI_CHECK(MPI_Comm_size(comm, &size));
  return size;
}

std::vector<std::int64_t> offsets_of(std::span<const std::int64_t> counts) {
  std::vector<std::int64_t> offsets(counts.size() + 1, 0);
  for (std::size_t r = 0; r < counts.size(); ++r) offsets[r + 1] = offsets[r] + counts[r];
  return offsets;
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(std::shared_ptr<MpiScope> scope, MPI_Comm comm, const Options& options, std::string name)
      : Communicator(rank_in(comm), size_of_group(comm), DeviceKind::kCpu, std::move(name)),
        comm_(std::move(scope), comm),
        options_(options) {
    constexpr std::int64_t kSharedMemoryRate = 2000;  // bytes a microsecond
    if (comm_.scope()->on_this_host(comm)) pace_.polled_bytes_per_us = kSharedMemoryRate;
  }

  void abort(int exit_code) noexcept override { MPI_Abort(MPI_COMM_WORLD, exit_code); }

 private:
  /// Runs one collective. What fails in it names the collective, rank and group, and leaves the job broken.
  template <class Work>
  void collective(std::string_view what, const Work& work) {
    next_tag_ =
        (next_tag_ + 1) % kNumTags;  // ranks that fell out of step never take one collective's data for another's
    try {
      work();
    } catch (const Error& e) {
      comm_.scope()->mark_broken();
      throw Error(e.code(), str(what, " on rank ", rank(), " of ", size(), " (group ", name(), "): ", e.message()),
                  e.hint());
    }
  }
  [[nodiscard]] Exchange exchange() { return Exchange(comm_.get(), next_tag_, options_, pace_); }

  /// The k-th peer in this rank's order: all ranks start with different ones, so that no rank is everybody's first.
  [[nodiscard]] int to_peer(int k) const { return (rank() + k) % size(); }
  [[nodiscard]] int from_peer(int k) const { return (rank() - k + size()) % size(); }

  /// Element [first(r), first(r) + count(r)) of `recv` comes from rank r, which has it at the same place; `recv` holds
  /// this rank's own share already.
  template <class First>
  void gather_in_place(Buffer recv, const First& first) {
    Exchange messages = exchange();
    const auto bytes = [&](int r) { return (first(r + 1) - first(r)) * size_of(recv.dtype); };
    for (int k = 1; k < size(); ++k) messages.receive(at(recv, first(from_peer(k))), bytes(from_peer(k)), from_peer(k));
    for (int k = 1; k < size(); ++k) messages.send(at(recv, first(rank())), bytes(rank()), to_peer(k));
    messages.wait();
  }

  /// Sends [first(r), first(r) + count(r)) of `send` to rank r, and reduces what the others send, and this rank's own
  /// part, into `out` [count(rank)].
  template <class First, class Count>
  void exchange_and_reduce(ConstBuffer send, const First& first, const Count& count, void* out, ReduceOp op) {
    const std::int64_t mine = count(rank()), element_bytes = size_of(send.dtype);
    const std::int64_t needed = mine * element_bytes * size();
    if (static_cast<std::int64_t>(scratch_.size()) < needed) scratch_.resize(static_cast<std::size_t>(needed));
    std::vector<const void*> sources(static_cast<std::size_t>(size()), at(send, first(rank())));
    Exchange messages = exchange();
    for (int k = 1; k < size(); ++k) {
      void* slot = scratch_.data() + mine * element_bytes * from_peer(k);
      messages.receive(slot, mine * element_bytes, from_peer(k));
      sources[static_cast<std::size_t>(from_peer(k))] = slot;
    }
    for (int k = 1; k < size(); ++k)
      messages.send(at(send, first(to_peer(k))), count(to_peer(k)) * element_bytes, to_peer(k));
    messages.wait();
    reduce_in_rank_order(out, sources, mine, send.dtype, op);
  }

  /// Elements of one rank's block that a reduction works on at a time, so that its scratch stays within the limit.
  [[nodiscard]] std::int64_t block_limit(DType dtype) const {
    return std::max<std::int64_t>(1, options_.scratch_bytes / (size_of(dtype) * size()));
  }

  void do_all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream&) override {
    collective("all_reduce", [&] {
      const std::int64_t bytes = bytes_of(send);
      if (bytes <= kGatherBytes && bytes * size() <= options_.scratch_bytes) {  // everyone reduces everything
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

  void do_all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream&) override {
    collective("all_gather_v", [&] {
      const auto offsets = offsets_of(counts);
      const auto first = [&](int r) { return offsets[static_cast<std::size_t>(r)]; };
      copy_bytes(at(recv, first(rank())), send.data, bytes_of(send));
      gather_in_place(recv, first);
    });
  }

  void do_reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream&) override {
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

  void do_all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts, Stream&) override {
    collective("all_to_all_v", [&] {
      const auto from = offsets_of(send_counts), to = offsets_of(recv_counts);
      const std::int64_t element_bytes = size_of(send.dtype);
      Exchange messages = exchange();
      for (int k = 1; k < size(); ++k) {
        const auto r = static_cast<std::size_t>(from_peer(k));
        messages.receive(at(recv, to[r]), recv_counts[r] * element_bytes, from_peer(k));
      }
      for (int k = 1; k < size(); ++k) {
        const auto r = static_cast<std::size_t>(to_peer(k));
        messages.send(at(send, from[r]), send_counts[r] * element_bytes, to_peer(k));
      }
      const auto me = static_cast<std::size_t>(rank());
      copy_bytes(at(recv, to[me]), at(send, from[me]), send_counts[me] * element_bytes);
      messages.wait();
    });
  }

  /// Binomial tree: in round d, ranks below 2^d (counted from the root) send to the rank 2^d further.
  void do_broadcast(Buffer buffer, int root, Stream&) override {
    collective("broadcast", [&] {
      const std::int64_t bytes = bytes_of(buffer);
      const int place = (rank() - root + size()) % size();
      int distance = 1;
      for (; distance <= place; distance *= 2) {
      }
      if (place > 0) {
        Exchange from_parent = exchange();
        from_parent.receive(buffer.data, bytes, (place - distance / 2 + root) % size());
        from_parent.wait();
      }
      Exchange to_children = exchange();
      for (; place + distance < size(); distance *= 2)
        to_children.send(buffer.data, bytes, (place + distance + root) % size());
      to_children.wait();
    });
  }

  void do_send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream&) override {
    collective("send_recv", [&] {
      Exchange messages = exchange();
      std::vector<RecvOp> from_self;
      for (const RecvOp& r : recvs) {
        if (r.src_rank == rank())
          from_self.push_back(r);
        else
          messages.receive(r.buffer.data, bytes_of(r.buffer), r.src_rank);
      }
      std::size_t next_from_self = 0;
      for (const SendOp& s : sends) {
        const std::int64_t bytes = bytes_of(s.buffer);
        if (s.dst_rank == rank())
          copy_bytes(from_self[next_from_self++].buffer.data, s.buffer.data, bytes);
        else
          messages.send(s.buffer.data, bytes, s.dst_rank);
      }
      messages.wait();
    });
  }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string_view child) override {
    MPI_Comm handle = MPI_COMM_NULL;
    collective("split", [&] {
      char here = 1;  // all ranks are there before MPI's own split, which waits without a deadline and without sleeping
      exchange_and_meet(&here);
      WEFT_MPI_CHECK(MPI_Comm_split(comm_.get(), color < 0 ? MPI_UNDEFINED : color, key, &handle));
    });
    if (handle == MPI_COMM_NULL) return nullptr;
    return std::make_unique<MpiCommunicator>(comm_.scope(), handle, options_, child_name(color, child));
  }

  void exchange_and_meet(const char* token) {
    std::vector<char> tokens(static_cast<std::size_t>(size()));
    Exchange messages = exchange();
    for (int k = 1; k < size(); ++k) messages.receive(&tokens[static_cast<std::size_t>(from_peer(k))], 1, from_peer(k));
    for (int k = 1; k < size(); ++k) messages.send(token, 1, to_peer(k));
    messages.wait();
  }

  CommHandle comm_;
  Options options_;
  Pace pace_;
  int next_tag_ = 0;
  std::vector<std::byte> scratch_;
};

}  // namespace

bool is_in_build() noexcept { return true; }

std::string version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  WEFT_MPI_CHECK(MPI_Get_library_version(text, &length));
  return {text, static_cast<std::size_t>(length)};
}

std::unique_ptr<Communicator> make_world(const Options& options) {
  auto scope = MpiScope::acquire();
  MPI_Comm comm = MPI_COMM_NULL;
  WEFT_MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &comm));
  return std::make_unique<MpiCommunicator>(std::move(scope), comm, options, "world");
}

}  // namespace weft::comm::mpi
