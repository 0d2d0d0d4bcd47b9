// tests/support/host_front.h - a communicator over host memory in front of one over a GPU's, so that the conformance
// suite, whose buffers are the host's, runs over the latter.
#pragma once

#include <cstddef>
#include <deque>
#include <initializer_list>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/communicator.h"
#include "core/memory.h"

namespace weft::test {

/// Takes buffers to the GPU, runs the collective of the group behind it, and brings the results back.
class HostFront final : public comm::Communicator {
 public:
  explicit HostFront(std::unique_ptr<comm::Communicator> inner, Device device = {DeviceKind::kCuda, 0})
      : comm::Communicator(inner->rank(), inner->size(), DeviceKind::kCpu, inner->name()),
        device_(device),
        inner_(std::move(inner)),
        stream_(make_stream(device, "front")) {}

  std::chrono::milliseconds timeout() const noexcept override { return inner_->timeout(); }
  void abort(int exit_code) noexcept override { inner_->abort(exit_code); }

 private:
  static std::int64_t bytes_of(comm::ConstBuffer b) { return b.count * size_of(b.dtype); }

  /// The buffer on the GPU, with its contents. One that lies inside an earlier one of this call stays inside it.
  comm::Buffer to_gpu(comm::ConstBuffer host) {
    for (const Pair& p : pairs_) {
      const auto* first = static_cast<const std::byte*>(p.host.data);
      const auto* mine = static_cast<const std::byte*>(host.data);
      if (mine >= first && mine + bytes_of(host) <= first + bytes_of(p.host))
        return {p.gpu.as<std::byte>() + (mine - first), host.count, host.dtype};
    }
    pairs_.push_back({host, Memory(device_, bytes_of(host))});
    const Memory& gpu = pairs_.back().gpu;
    if (bytes_of(host) > 0) stream_->enqueue([&] { copy_bytes(*stream_, gpu.data(), host.data, bytes_of(host)); });
    return {gpu.data(), host.count, host.dtype};
  }
  /// Runs one collective; then what it received is on the host.
  template <class Work>
  void run(std::initializer_list<comm::Buffer> received, const Work& work) {
    stream_->enqueue(work);
    for (const comm::Buffer& host : received)
      stream_->enqueue([&] {
        if (bytes_of(host) > 0) copy_bytes(*stream_, host.data, to_gpu(host).data, bytes_of(host));
      });
    stream_->synchronize();
    pairs_.clear();
  }

  void do_all_reduce(comm::ConstBuffer send, comm::Buffer recv, comm::ReduceOp op, Stream&) override {
    const comm::Buffer to = to_gpu(recv), from = to_gpu(send);
    run({recv}, [&] { inner_->all_reduce(from, to, op, *stream_); });
  }
  void do_all_gather_v(comm::ConstBuffer send, comm::Buffer recv, Counts counts, Stream&) override {
    const comm::Buffer to = to_gpu(recv), from = to_gpu(send);
    run({recv}, [&] { inner_->all_gather_v(from, to, counts, *stream_); });
  }
  void do_reduce_scatter_v(comm::ConstBuffer send, comm::Buffer recv, Counts counts, comm::ReduceOp op,
                           Stream&) override {
    const comm::Buffer to = to_gpu(recv), from = to_gpu(send);
    run({recv}, [&] { inner_->reduce_scatter_v(from, to, counts, op, *stream_); });
  }
  void do_all_to_all_v(comm::ConstBuffer send, Counts send_counts, comm::Buffer recv, Counts recv_counts,
                       Stream&) override {
    const comm::Buffer to = to_gpu(recv), from = to_gpu(send);
    run({recv}, [&] { inner_->all_to_all_v(from, send_counts, to, recv_counts, *stream_); });
  }
  void do_broadcast(comm::Buffer buffer, int root, Stream&) override {
    const comm::Buffer gpu = to_gpu(buffer);
    run({buffer}, [&] { inner_->broadcast(gpu, root, *stream_); });
  }
  void do_send_recv(std::span<const comm::SendOp> sends, std::span<const comm::RecvOp> recvs, Stream&) override {
    std::vector<comm::SendOp> gpu_sends;
    std::vector<comm::RecvOp> gpu_recvs;
    for (const comm::SendOp& s : sends) gpu_sends.push_back({to_gpu(s.buffer), s.dst_rank});
    for (const comm::RecvOp& r : recvs) gpu_recvs.push_back({to_gpu(r.buffer), r.src_rank});
    run({}, [&] {
      inner_->send_recv(gpu_sends, gpu_recvs, *stream_);
      for (std::size_t i = 0; i < recvs.size(); ++i)
        if (bytes_of(recvs[i].buffer) > 0)
          copy_bytes(*stream_, recvs[i].buffer.data, gpu_recvs[i].buffer.data, bytes_of(recvs[i].buffer));
    });
  }
  std::unique_ptr<comm::Communicator> do_split(int color, int key, std::string_view name) override {
    auto child = inner_->split(color, key, name);
    return child ? std::make_unique<HostFront>(std::move(child), device_) : nullptr;
  }

  struct Pair {
    comm::ConstBuffer host;
    Memory gpu;
  };
  Device device_;
  std::unique_ptr<comm::Communicator> inner_;
  std::unique_ptr<Stream> stream_;
  std::deque<Pair> pairs_;  // of one call; what was handed out keeps its place
};

}  // namespace weft::test
