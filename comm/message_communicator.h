// comm/message_communicator.h - collectives on host memory as messages between pairs of ranks; a backend moves them.
//
// Direct algorithms over point-to-point messages, for three reasons: the order of every sum is ours (the same as the
// local backend's, so results agree bit for bit), one wait serves all (deadline, sleeping, naming who is missing), and
// no length is limited by a library's int counts. Each moves the least bytes per rank that its collective allows
// (comm/cost.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"

namespace weft::comm {

/// A set of messages under way together: all receives and sends, then wait() once. Messages between one pair match in
/// order; both sides agree on their lengths. Empty ones are not sent.
class Messages {
 public:
  virtual ~Messages() = default;
  virtual void receive(void* data, std::int64_t bytes, int src_rank) = 0;
  virtual void send(const void* data, std::int64_t bytes, int dst_rank) = 0;
  /// Returns when all is done. Throws Error{kTimeout} naming the peers that did not come, and Error{kComm} when a link
  /// failed or a peer sent another length.
  virtual void wait() = 0;
};

class MessageCommunicator : public Communicator {
 protected:
  /// `scratch_bytes`: at most this much memory for reductions.
  MessageCommunicator(int rank, int size, std::string name, std::int64_t scratch_bytes)
      : Communicator(rank, size, DeviceKind::kCpu, std::move(name)), scratch_bytes_(scratch_bytes) {}

  /// Runs one collective. What fails in it names the collective, rank and group, after broken().
  void collective(std::string_view what, const std::function<void()>& work);
  /// Every rank has entered before any leaves.
  void meet();
  /// How many collectives this group has begun, equal on all ranks that are in step: ranks that fell out of it must not
  /// take one collective's data for another's.
  [[nodiscard]] std::uint64_t num_begun() const noexcept { return num_begun_; }

 private:
  [[nodiscard]] virtual std::unique_ptr<Messages> messages() = 0;
  /// The group is good for nothing more.
  virtual void broken() noexcept = 0;

  /// The k-th peer in this rank's order: all ranks start with different ones, so that no rank is everybody's first.
  [[nodiscard]] int to_peer(int k) const { return (rank() + k) % size(); }
  [[nodiscard]] int from_peer(int k) const { return (rank() - k + size()) % size(); }
  template <class First>
  void gather_in_place(Buffer recv, const First& first);
  template <class First, class Count>
  void exchange_and_reduce(ConstBuffer send, const First& first, const Count& count, void* out, ReduceOp op);
  [[nodiscard]] std::int64_t block_limit(DType dtype) const;

  void do_all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream) override;
  void do_all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream& stream) override;
  void do_reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream& stream) override;
  void do_all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts, Stream& stream) override;
  void do_broadcast(Buffer buffer, int root, Stream& stream) override;
  void do_send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream& stream) override;

  std::int64_t scratch_bytes_;
  std::uint64_t num_begun_ = 0;
  std::vector<std::byte> scratch_;
};

}  // namespace weft::comm
