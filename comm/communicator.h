// comm/communicator.h - the collectives of one group of ranks.
// Source: MPI-4.0, chapter 6; NCCL user guide, "Collective Operations". Backends: local (ranks are threads of one
// process, for tests), mpi (host buffers), nccl (device buffers, CUDA streams).
#pragma once

#include <cstdint>
#include <memory>
#include <span>

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
[[nodiscard]] ConstBuffer as_buffer(const T* data, std::int64_t count) noexcept { return {data, count, dtype_of<T>}; }
template <class T>
[[nodiscard]] Buffer as_buffer(T* data, std::int64_t count) noexcept { return {data, count, dtype_of<T>}; }

/// One message of a grouped exchange. A peer may be this rank itself (a copy).
struct SendOp { ConstBuffer buffer; int dst_rank = 0; };
struct RecvOp { Buffer buffer; int src_rank = 0; };

/// One group of P = size() ranks. Collectives are called from inside a task of `stream` (core/stream.h): on the CPU they are
/// done when they return, polling with short sleeps so that a waiting rank leaves the core to others; on CUDA they are
/// launched. Every rank calls the same collectives in the same order, from one thread at a time. Empty counts are fine.
/// Results do not depend on timing: reductions combine in a fixed order for a given P and count.
/// Errors: what this rank can see by itself (counts, dtype, device) is Error{kInvalidArgument}; a lost peer or a passed
/// deadline is Error{kComm} or Error{kTimeout} naming the collective, rank and group, and the group is then good for abort()
/// and destruction alone.
class Communicator {
 public:
  virtual ~Communicator() = default;
  [[nodiscard]] virtual int rank() const noexcept = 0;  ///< In [0, P).
  [[nodiscard]] virtual int size() const noexcept = 0;  ///< P >= 1. In a group of one, collectives just copy.
  [[nodiscard]] virtual DeviceKind device_kind() const noexcept = 0;

  /// recv[i] = op over ranks of send[i]. [n] -> [n]; in place when the pointers are equal. F32, F64, I32, I64.
  virtual void all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream) = 0;
  /// Shares joined in rank order: rank r gives counts[r] elements. [counts[rank]] -> [sum of counts]. In place when
  /// send.data already points at this rank's share inside recv. counts: [P], equal on all ranks.
  virtual void all_gather_v(ConstBuffer send, Buffer recv, std::span<const std::int64_t> counts, Stream& stream) = 0;
  /// Rank r keeps block r of the reduction. [sum of counts] -> [counts[rank]]. counts: [P], equal on all ranks. recv may
  /// not overlap send.
  virtual void reduce_scatter_v(ConstBuffer send, Buffer recv, std::span<const std::int64_t> counts, ReduceOp op,
                                Stream& stream) = 0;
  /// Block r of `send` becomes block rank() of rank r's `recv`; blocks lie packed in rank order. send_counts and
  /// recv_counts: [P] elements each, each summing to its buffer's count; 0 is fine.
  virtual void all_to_all_v(ConstBuffer send, std::span<const std::int64_t> send_counts, Buffer recv,
                            std::span<const std::int64_t> recv_counts, Stream& stream) = 0;
  virtual void broadcast(Buffer buffer, int root, Stream& stream) = 0;
  /// All messages of the group at once, in any mixture of peers; between one pair of ranks they match in order.
  virtual void send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream& stream) = 0;

  /// Collective, blocking. Ranks with one `color` form a group in order of (key, rank()); color < 0: nullptr.
  [[nodiscard]] virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  /// From any thread: fails what is under way with Error{kComm}. mpi: ends the job (MPI_Abort).
  virtual void abort() noexcept = 0;
};

/// Equal shares: [n] -> [P * n] and [P * n] -> [n].
void all_gather(Communicator& comm, ConstBuffer send, Buffer recv, Stream& stream);
void reduce_scatter(Communicator& comm, ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream);
/// Every rank has entered before any leaves.
void barrier(Communicator& comm, Stream& stream);

}  // namespace weft::comm
