// tests/comm/nccl_test.cpp - the conformance suite over NCCL, with one rank: buffers of the suite are host memory, so a
// communicator of the host stands in front that takes them to the GPU and back.
#include <chrono>
#include <deque>

#include "comm/factory.h"
#include "core/memory.h"
#include "tests/support/catch.h"
#include "tests/support/comm_conformance.h"
#include "tests/support/findings.h"
#include "tests/support/skip.h"

namespace weft::test {
namespace {

using namespace weft::comm;

class Staged final : public Communicator {
 public:
  explicit Staged(std::unique_ptr<Communicator> inner)
      : Communicator(inner->rank(), inner->size(), DeviceKind::kCpu, inner->name()),
        inner_(std::move(inner)),
        stream_(make_stream(kDevice, "staged")) {}

  void abort(int exit_code) noexcept override { inner_->abort(exit_code); }

 private:
  static constexpr Device kDevice{DeviceKind::kCuda, 0};

  static std::int64_t bytes_of(ConstBuffer b) { return b.count * size_of(b.dtype); }

  /// The buffer on the GPU, with its contents. One that lies inside an earlier one of this call stays inside it.
  Buffer to_gpu(ConstBuffer host) {
    for (const Pair& p : pairs_) {
      const auto* first = static_cast<const std::byte*>(p.host.data);
      const auto* mine = static_cast<const std::byte*>(host.data);
      if (mine >= first && mine + bytes_of(host) <= first + bytes_of(p.host))
        return {p.gpu.as<std::byte>() + (mine - first), host.count, host.dtype};
    }
    pairs_.push_back({host, Memory(kDevice, bytes_of(host))});
    const Memory& gpu = pairs_.back().gpu;
    if (bytes_of(host) > 0) stream_->enqueue([&] { copy_bytes(*stream_, gpu.data(), host.data, bytes_of(host)); });
    return {gpu.data(), host.count, host.dtype};
  }
  /// Runs one collective; then what it received is on the host.
  template <class Work>
  void run(std::initializer_list<Buffer> received, const Work& work) {
    stream_->enqueue(work);
    for (const Buffer& host : received)
      stream_->enqueue([&] {
        if (bytes_of(host) > 0) copy_bytes(*stream_, host.data, to_gpu(host).data, bytes_of(host));
      });
    stream_->synchronize();
    pairs_.clear();
  }

  void do_all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream&) override {
    const Buffer to = to_gpu(recv), from = to_gpu(send);
    run({recv}, [&] { inner_->all_reduce(from, to, op, *stream_); });
  }
  void do_all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream&) override {
    const Buffer to = to_gpu(recv), from = to_gpu(send);
    run({recv}, [&] { inner_->all_gather_v(from, to, counts, *stream_); });
  }
  void do_reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream&) override {
    const Buffer to = to_gpu(recv), from = to_gpu(send);
    run({recv}, [&] { inner_->reduce_scatter_v(from, to, counts, op, *stream_); });
  }
  void do_all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts, Stream&) override {
    const Buffer to = to_gpu(recv), from = to_gpu(send);
    run({recv}, [&] { inner_->all_to_all_v(from, send_counts, to, recv_counts, *stream_); });
  }
  void do_broadcast(Buffer buffer, int root, Stream&) override {
    const Buffer gpu = to_gpu(buffer);
    run({buffer}, [&] { inner_->broadcast(gpu, root, *stream_); });
  }
  void do_send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream&) override {
    std::vector<SendOp> gpu_sends;
    std::vector<RecvOp> gpu_recvs;
    for (const SendOp& s : sends) gpu_sends.push_back({to_gpu(s.buffer), s.dst_rank});
    for (const RecvOp& r : recvs) gpu_recvs.push_back({to_gpu(r.buffer), r.src_rank});
    run({}, [&] {
      inner_->send_recv(gpu_sends, gpu_recvs, *stream_);
      for (std::size_t i = 0; i < recvs.size(); ++i)
        if (bytes_of(recvs[i].buffer) > 0)
          copy_bytes(*stream_, recvs[i].buffer.data, gpu_recvs[i].buffer.data, bytes_of(recvs[i].buffer));
    });
  }
  std::unique_ptr<Communicator> do_split(int color, int key, std::string) override {
    auto child = inner_->split(color, key);
    return child ? std::make_unique<Staged>(std::move(child)) : nullptr;
  }

  struct Pair {
    ConstBuffer host;
    Memory gpu;
  };
  std::unique_ptr<Communicator> inner_;
  std::unique_ptr<Stream> stream_;
  std::deque<Pair> pairs_;  // of one call; what was handed out keeps its place
};

TEST_CASE("every communicator over NCCL", "[comm][nccl]") {
  if (!is_available(DeviceKind::kCuda)) WEFT_SKIP(why_unavailable(DeviceKind::kCuda));
  Staged world(make_world(Backend::kNccl, std::chrono::seconds(60)));
  for (const ConformanceCase& c : conformance_cases()) {
    DYNAMIC_SECTION(c.name) {
      for (const std::uint64_t seed : {1U, 2U, 3U}) {
        INFO("seed " << seed);
        Findings findings;
        c.run(world, seed, findings);
        CHECK(findings.texts() == std::vector<std::string>{});
      }
    }
  }
}

}  // namespace
}  // namespace weft::test
