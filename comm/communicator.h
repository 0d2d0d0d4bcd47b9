// comm/communicator.h - the collectives of one group of ranks.
// Source: MPI-4.0, chapter 6; NCCL user guide, "Collective Operations". Backends: local (ranks are threads of one
// process, for tests), mpi and tcp (host buffers), nccl (device buffers, CUDA streams), staged (device buffers that go
// through a host backend).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/traffic.h"
#include "core/device.h"
#include "core/dtype.h"
#include "core/stream.h"

namespace weft::comm {

enum class ReduceOp : std::uint8_t { kSum, kMax, kMin };

/// `count` elements (not bytes) of `dtype`, contiguous, in memory of the communicator's device_kind().
struct ConstBuffer {
  const void* data = nullptr;
  std::int64_t count = 0;
  DType dtype = DType::kF32;
};
struct Buffer {
  void* data = nullptr;
  std::int64_t count = 0;
  DType dtype = DType::kF32;
  operator ConstBuffer() const noexcept { return {data, count, dtype}; }
};

template <class T>
[[nodiscard]] ConstBuffer as_buffer(const T* data, std::int64_t count) noexcept {
  return {data, count, dtype_of<T>};
}
template <class T>
[[nodiscard]] Buffer as_buffer(T* data, std::int64_t count) noexcept {
  return {data, count, dtype_of<T>};
}

/// One message of a grouped exchange. A peer may be this rank itself (a copy).
struct SendOp {
  ConstBuffer buffer;
  int dst_rank = 0;
};
struct RecvOp {
  Buffer buffer;
  int src_rank = 0;
};

/// One group of P = size() ranks. Collectives are called from inside a task of `stream` (core/stream.h): on the CPU
/// they are done when they return, polling with short sleeps so that a waiting rank leaves the core to others; on CUDA
/// they are launched. Every rank calls the same collectives in the same order, from one thread at a time. Empty counts
/// are fine. Reductions combine as ((x_0 op x_1) op x_2) ... in rank order for every element, on every backend of the
/// CPU: they depend neither on timing nor on how a message is cut, and are bitwise equal on all ranks; kMax and kMin
/// keep a NaN; BF16 is combined in F32 and rounded once. NCCL sums in an order of its own, which is the same again for
/// the same ranks, links and sizes. Errors: what this rank can see by itself (counts, dtype, device) is
/// Error{kInvalidArgument}; a lost peer or a passed deadline is Error{kComm} or Error{kTimeout} naming the collective,
/// rank and group, and the group is then good for abort() and destruction alone. The checks stand here, once; a backend
/// is a set of do_... functions that trust their arguments.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  [[nodiscard]] int rank() const noexcept { return rank_; }  ///< In [0, P).
  [[nodiscard]] int size() const noexcept { return size_; }  ///< P >= 1. In a group of one, collectives just copy.
  [[nodiscard]] DeviceKind device_kind() const noexcept { return device_kind_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }  ///< For messages: "world", "world.ep[1]".
  /// Of `rank` of this group: its place in the world that the group was split from.
  [[nodiscard]] int world_rank(int rank) const {
    return world_ranks_.empty() ? rank : world_ranks_[static_cast<std::size_t>(rank)];
  }

  /// How long a collective may wait for its peers before it is Error{kTimeout}; zero: for ever.
  [[nodiscard]] virtual std::chrono::milliseconds timeout() const noexcept = 0;

  /// recv[i] = op over ranks of send[i]. [n] -> [n]; in place when the pointers are equal. F32, F64, I32, I64.
  void all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream);
  /// Shares joined in rank order: rank r gives counts[r] elements. [counts[rank]] -> [sum of counts]. In place when
  /// send.data already points at this rank's share inside recv. counts: [P], equal on all ranks.
  void all_gather_v(ConstBuffer send, Buffer recv, std::span<const std::int64_t> counts, Stream& stream);
  /// Rank r keeps block r of the reduction. [sum of counts] -> [counts[rank]]. counts: [P], equal on all ranks. recv
  /// may not overlap send. F32, F64, I32, I64.
  void reduce_scatter_v(ConstBuffer send, Buffer recv, std::span<const std::int64_t> counts, ReduceOp op,
                        Stream& stream);
  /// Block r of `send` becomes block rank() of rank r's `recv`; blocks lie packed in rank order. send_counts and
  /// recv_counts: [P] elements each, each summing to its buffer's count; 0 is fine. recv may not overlap send.
  void all_to_all_v(ConstBuffer send, std::span<const std::int64_t> send_counts, Buffer recv,
                    std::span<const std::int64_t> recv_counts, Stream& stream);
  void broadcast(Buffer buffer, int root, Stream& stream);
  /// All messages of the group at once, in any mixture of peers; between one pair of ranks they match in order. A rank
  /// without messages calls it too. Nothing that is received may overlap anything else of the call.
  void send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream& stream);

  /// What this rank has sent through this group and all that come from the same world.
  [[nodiscard]] const Traffic& traffic() const noexcept { return *traffic_; }
  /// Counts what a recording (core/recording.h) sends each time it is launched: collectives are called, and counted,
  /// only when it is made.
  void count_again(const Traffic::Snapshot& sent) noexcept { traffic_->add(sent); }
  /// Whether collectives may be called while their stream is recorded.
  [[nodiscard]] virtual bool is_recordable() const noexcept { return false; }

  /// Collective, blocking. Ranks with one `color` form a group in order of (key, rank()); color < 0: nullptr.
  /// `name` shows in messages as "<parent>.<name>[<color>]".
  [[nodiscard]] std::unique_ptr<Communicator> split(int color, int key, std::string_view name = "split");
  /// From any thread: fails what is under way with Error{kComm}. mpi: ends the job with `exit_code` (MPI_Abort).
  virtual void abort(int exit_code = 1) noexcept = 0;

 protected:
  using Counts = std::span<const std::int64_t>;
  Communicator(int rank, int size, DeviceKind device_kind, std::string name)
      : rank_(rank),
        size_(size),
        device_kind_(device_kind),
        name_(std::move(name)),
        traffic_(std::make_shared<Traffic>(size)) {}
  /// Whose bytes a group over device memory are: its own, or those of the host group that carries them.
  enum class CountedBy : bool { kItself, kHost };
  /// The ranks and the name of `host`, over memory of another kind; bytes count into the same traffic.
  Communicator(const Communicator& host, DeviceKind device_kind, CountedBy counted_by)
      : rank_(host.rank_),
        size_(host.size_),
        device_kind_(device_kind),
        name_(host.name_),
        traffic_(host.traffic_),
        world_ranks_(host.world_ranks_),
        counts_(counted_by == CountedBy::kItself) {}
  /// What split() calls the new group.
  [[nodiscard]] std::string child_name(int color, std::string_view name) const;

 private:
  /// Bytes that go to rank `dst_rank` of this group; what a rank keeps is not counted.
  void count(Collective collective, int dst_rank, std::int64_t bytes) noexcept;
  /// Counts into the traffic of `parent` from here on. Collective.
  void join_traffic(const Communicator& parent);

  virtual void do_all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream) = 0;
  virtual void do_all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream& stream) = 0;
  virtual void do_reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream& stream) = 0;
  virtual void do_all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts,
                               Stream& stream) = 0;
  virtual void do_broadcast(Buffer buffer, int root, Stream& stream) = 0;
  virtual void do_send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream& stream) = 0;
  /// The new group is called child_name(color, name).
  virtual std::unique_ptr<Communicator> do_split(int color, int key, std::string_view name) = 0;

  int rank_;
  int size_;
  DeviceKind device_kind_;
  std::string name_;
  std::shared_ptr<Traffic> traffic_;
  std::vector<int> world_ranks_;  // [P], of the ranks of this group in the world; empty: they are the same
  bool counts_ = true;            // into traffic_
};

/// Traffic of all ranks, the same on every one. Collective over `world`; what it sends itself is not in it.
[[nodiscard]] TrafficMatrix gather_traffic(Communicator& world, Stream& stream);

/// Equal shares: [n] -> [P * n] and [P * n] -> [n].
void all_gather(Communicator& comm, ConstBuffer send, Buffer recv, Stream& stream);
void reduce_scatter(Communicator& comm, ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream);
/// Every rank has entered before any leaves. For groups over host memory.
void barrier(Communicator& comm, Stream& stream);

}  // namespace weft::comm
