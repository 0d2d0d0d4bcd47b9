#include "comm/staged_communicator.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <exception>
#include <numeric>
#include <utility>
#include <vector>

#include "comm/host_buffer.h"
#include "comm/staging.h"
#include "core/error.h"

namespace weft::comm {
namespace {

/// Elements [first, first + count).
struct Range {
  std::int64_t first, count;
};
Range piece_of(std::int64_t count, std::int64_t piece, std::int64_t num_pieces) {
  const std::int64_t first = count * piece / num_pieces;
  return {first, count * (piece + 1) / num_pieces - first};
}

Buffer part_of(Buffer whole, Range range) { return {at(whole, range.first), range.count, whole.dtype}; }

std::vector<std::int64_t> copy_of(std::span<const std::int64_t> counts) { return {counts.begin(), counts.end()}; }

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(std::shared_ptr<Communicator> host, Device device, std::int64_t piece_bytes)
      : Communicator(*host, DeviceKind::kCuda, CountedBy::kHost),
        host_(std::move(host)),
        device_(device),
        piece_bytes_(piece_bytes),
        stagings_{Staging(device), Staging(device)},
        worker_(make_stream({}, "staging", StreamPriority::kHigh)) {}
  ~StagedCommunicator() override {
    try {
      worker_->synchronize();
    } catch (const std::exception&) {
      // the streams that waited for it have it
    }
  }

  std::chrono::milliseconds timeout() const noexcept override { return host_->timeout(); }
  void abort(int exit_code) noexcept override { host_->abort(exit_code); }

 private:
  /// Two in turn, so that one collective's copies to the host need not wait for the copies back of the one before.
  [[nodiscard]] StagedTransfer begin(Stream& stream, std::int64_t bytes) {
    next_ = (next_ + 1) % stagings_.size();
    return StagedTransfer(stagings_[next_], *worker_, stream, bytes);
  }

  /// Equal on all ranks, as they agree on `bytes`. At least one: a rank without any takes part as well.
  [[nodiscard]] std::int64_t num_pieces(std::int64_t bytes) const {
    return std::max<std::int64_t>(1, (bytes + piece_bytes_ - 1) / piece_bytes_);
  }

  /// True in a group of one, where it has copied.
  [[nodiscard]] bool copied_alone(ConstBuffer send, Buffer recv, Stream& stream) const {
    if (size() > 1) return false;
    if (send.data != recv.data) copy_bytes(stream, recv.data, send.data, bytes_of(send));
    return true;
  }

  void do_all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream) override {
    if (copied_alone(send, recv, stream)) return;
    StagedTransfer transfer = begin(stream, staged_bytes(bytes_of(send)));
    const Buffer staged = transfer.take(send.count, send.dtype);
    for (std::int64_t k = 0, n = num_pieces(bytes_of(send)); k < n; ++k) {
      const Range range = piece_of(send.count, k, n);
      const Buffer part = part_of(staged, range);
      transfer.fetch(part, at(send, range.first));
      transfer.run([host = host_.get(), part, op](Stream& on) { host->all_reduce(part, part, op, on); });
      transfer.store(at(recv, range.first), part);
    }
    transfer.finish();
  }

  void do_all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream& stream) override {
    if (copied_alone(send, recv, stream)) return;
    StagedTransfer transfer = begin(stream, staged_bytes(bytes_of(recv)));
    const Buffer staged = transfer.take(recv.count, recv.dtype);
    std::int64_t taken = 0;
    for (std::int64_t k = 0, n = num_pieces(bytes_of(recv)); k < n; ++k) {
      std::vector<std::int64_t> part_counts;
      for (const std::int64_t count : counts) part_counts.push_back(piece_of(count, k, n).count);
      const Buffer whole =
          part_of(staged, {taken, std::accumulate(part_counts.begin(), part_counts.end(), std::int64_t{0})});
      taken += whole.count;
      std::vector<Buffer> parts;  // of each rank
      for (std::int64_t first = 0; const std::int64_t count : part_counts) {
        parts.push_back(part_of(whole, {first, count}));
        first += count;
      }
      const Buffer mine = parts[static_cast<std::size_t>(rank())];
      transfer.fetch(mine, at(send, piece_of(send.count, k, n).first));
      transfer.run([host = host_.get(), mine, whole, part_counts](Stream& on) {
        host->all_gather_v(mine, whole, part_counts, on);
      });
      std::int64_t offset = 0;
      for (std::size_t r = 0; r < parts.size(); offset += counts[r], ++r)
        transfer.store(at(recv, offset + piece_of(counts[r], k, n).first), parts[r]);
    }
    transfer.finish();
  }

  void do_reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream& stream) override {
    if (copied_alone(send, recv, stream)) return;
    StagedTransfer transfer = begin(stream, staged_bytes(bytes_of(send)) + staged_bytes(bytes_of(recv)));
    const Buffer staged = transfer.take(send.count, send.dtype), reduced = transfer.take(recv.count, recv.dtype);
    std::int64_t taken = 0;
    for (std::int64_t k = 0, n = num_pieces(bytes_of(send)); k < n; ++k) {
      const std::int64_t begin_of_piece = taken;
      std::vector<std::int64_t> part_counts;
      std::int64_t offset = 0;
      for (const std::int64_t count : counts) {
        const Range range = piece_of(count, k, n);
        transfer.fetch(part_of(staged, {taken, range.count}), at(send, offset + range.first));
        part_counts.push_back(range.count);
        taken += range.count;
        offset += count;
      }
      const Buffer from = part_of(staged, {begin_of_piece, taken - begin_of_piece});
      const Range range = piece_of(recv.count, k, n);
      const Buffer to = part_of(reduced, range);
      transfer.run([host = host_.get(), from, to, part_counts, op](Stream& on) {
        host->reduce_scatter_v(from, to, part_counts, op, on);
      });
      transfer.store(at(recv, range.first), to);
    }
    transfer.finish();
  }

  void do_all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts, Stream& stream) override {
    if (copied_alone(send, recv, stream)) return;
    StagedTransfer transfer = begin(stream, staged_bytes(bytes_of(send)) + staged_bytes(bytes_of(recv)));
    const Buffer from = transfer.take(send.count, send.dtype), to = transfer.take(recv.count, recv.dtype);
    transfer.fetch(from, send.data);
    transfer.run([host = host_.get(), from, to, out = copy_of(send_counts), in = copy_of(recv_counts)](Stream& on) {
      host->all_to_all_v(from, out, to, in, on);
    });
    transfer.store(recv.data, to);
    transfer.finish();
  }

  void do_broadcast(Buffer buffer, int root, Stream& stream) override {
    if (size() == 1) return;
    StagedTransfer transfer = begin(stream, staged_bytes(bytes_of(buffer)));
    const Buffer staged = transfer.take(buffer.count, buffer.dtype);
    for (std::int64_t k = 0, n = num_pieces(bytes_of(buffer)); k < n; ++k) {
      const Range range = piece_of(buffer.count, k, n);
      const Buffer part = part_of(staged, range);
      if (rank() == root) transfer.fetch(part, at(buffer, range.first));
      transfer.run([host = host_.get(), part, root](Stream& on) { host->broadcast(part, root, on); });
      if (rank() != root) transfer.store(at(buffer, range.first), part);
    }
    transfer.finish();
  }

  void do_send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream& stream) override {
    std::int64_t bytes = 0;
    for (const SendOp& s : sends) bytes += staged_bytes(bytes_of(s.buffer));
    for (const RecvOp& r : recvs) bytes += staged_bytes(bytes_of(r.buffer));
    StagedTransfer transfer = begin(stream, bytes);
    std::vector<SendOp> host_sends;
    std::vector<RecvOp> host_recvs;
    for (const auto& [buffer, dst_rank] : sends) {
      const Buffer staged = transfer.take(buffer.count, buffer.dtype);
      transfer.fetch(staged, buffer.data);
      host_sends.push_back({staged, dst_rank});
    }
    for (const auto& [buffer, src_rank] : recvs)
      host_recvs.push_back({transfer.take(buffer.count, buffer.dtype), src_rank});
    transfer.run(
        [host = host_.get(), host_sends, host_recvs](Stream& on) { host->send_recv(host_sends, host_recvs, on); });
    for (std::size_t i = 0; i < recvs.size(); ++i) transfer.store(recvs[i].buffer.data, host_recvs[i].buffer);
    transfer.finish();
  }

  std::unique_ptr<Communicator> do_split(int color, int key, std::string_view child) override {
    std::shared_ptr<Communicator> group;
    worker_->enqueue([&] { group = host_->split(color, key, child); });  // after the collectives under way
    worker_->record().wait();
    return group ? make_staged_communicator(std::move(group), device_, piece_bytes_) : nullptr;
  }

  std::shared_ptr<Communicator> host_;
  Device device_;
  std::int64_t piece_bytes_;
  std::array<Staging, 2> stagings_;
  std::size_t next_ = 0;
  std::unique_ptr<Stream> worker_;  // last: ends before what its work uses
};

}  // namespace

std::unique_ptr<Communicator> make_staged_communicator(std::shared_ptr<Communicator> host, Device device,
                                                       std::int64_t piece_bytes) {
  WEFT_CHECK(device.kind == DeviceKind::kCuda, "a staged communicator is for a GPU");
  WEFT_CHECK(host->device_kind() == DeviceKind::kCpu, "group ", host->name(), " is not over host memory");
  WEFT_CHECK(piece_bytes > 0, "pieces of ", piece_bytes, " bytes");
  return std::make_unique<StagedCommunicator>(std::move(host), device, piece_bytes);
}

}  // namespace weft::comm
