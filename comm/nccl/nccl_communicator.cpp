// comm/nccl/nccl_communicator.cpp - collectives on device memory, launched onto CUDA streams.
// Source: NCCL user guide, "Point-to-point communication" (all-to-all-v as grouped messages) and "In-place operations".
#include <algorithm>
#include <cstdlib>
#include <exception>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "comm/host_buffer.h"
#include "comm/nccl/backend.h"
#include "comm/nccl/group.h"
#include "comm/topology.h"
#include "core/cuda/device.h"
#include "core/error.h"
#include "core/log.h"

namespace weft::comm::nccl {
namespace {

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return ncclFloat32;
    case DType::kF64:
      return ncclFloat64;
    case DType::kBF16:
      return ncclBfloat16;
    case DType::kI32:
      return ncclInt32;
    case DType::kI64:
      return ncclInt64;
    case DType::kU8:
      return ncclUint8;
  }
  throw Error(ErrorCode::kInternal, "nccl: unknown dtype");
}

ncclRedOp_t op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return ncclSum;
    case ReduceOp::kMax:
      return ncclMax;
    case ReduceOp::kMin:
      return ncclMin;
  }
  throw Error(ErrorCode::kInternal, "nccl: unknown reduction");
}

std::size_t unsigned_of(std::int64_t count) { return static_cast<std::size_t>(count); }

bool all_equal(std::span<const std::int64_t> counts) {
  return std::all_of(counts.begin(), counts.end(), [&](std::int64_t c) { return c == counts.front(); });
}

/// Which budget a group has, by the nodes of its ranks: the same on all of them.
class Budgets {
 public:
  /// Collective over `host`, which holds the ranks of all groups to come.
  Budgets(Communicator& host, const CtaBudgets& ctas) : ctas_(ctas) {
    const Topology topology = find_topology(host, *make_inline_stream());
    for (int r = 0; r < host.size(); ++r)
      node_of_[host.world_rank(r)] = topology.node_of_rank[static_cast<std::size_t>(r)];
  }
  [[nodiscard]] int of(const Communicator& group) const {
    for (int r = 1; r < group.size(); ++r)
      if (node_of_.at(group.world_rank(r)) != node_of_.at(group.world_rank(0))) return ctas_.inter_node;
    return ctas_.intra_node;
  }

 private:
  CtaBudgets ctas_;
  std::map<int, int> node_of_;  // by rank in the world
};

class NcclCommunicator final : public Communicator {
 public:
  /// `host`: the same ranks over host memory, to split by and to end the job with.
  NcclCommunicator(std::unique_ptr<Group> group, std::shared_ptr<Communicator> host,
                   std::shared_ptr<const Budgets> budgets)
      : Communicator(*host, DeviceKind::kCuda, CountedBy::kItself),
        group_(std::move(group)),
        host_(std::move(host)),
        budgets_(std::move(budgets)) {}

  std::chrono::milliseconds timeout() const noexcept override { return host_->timeout(); }
  bool is_recordable() const noexcept override { return true; }
  void abort(int exit_code) noexcept override {
    group_->abort(std::make_exception_ptr(Error(ErrorCode::kComm, str("group ", name(), " was aborted"))));
    host_->abort(exit_code);
  }

 private:
  template <class Calls>
  void launch(std::string_view what, Stream& stream, const Calls& calls) {
    group_->launch(dynamic_cast<cuda::GpuStream&>(stream), str(what, " on rank ", rank(), " of ", size()), calls);
  }

  void do_all_reduce(ConstBuffer send, Buffer recv, ReduceOp op, Stream& stream) override {
    launch("all_reduce", stream, [&](ncclComm_t comm, cudaStream_t on) {
      WEFT_NCCL_CHECK(
          ncclAllReduce(send.data, recv.data, unsigned_of(send.count), type_of(send.dtype), op_of(op), comm, on));
    });
  }

  void do_all_gather_v(ConstBuffer send, Buffer recv, Counts counts, Stream& stream) override {
    launch("all_gather_v", stream, [&](ncclComm_t comm, cudaStream_t on) {
      const ncclDataType_t type = type_of(send.dtype);
      if (all_equal(counts)) {
        WEFT_NCCL_CHECK(ncclAllGather(send.data, recv.data, unsigned_of(send.count), type, comm, on));
        return;
      }
      std::int64_t first = 0;
      for (int r = 0; r < size(); first += counts[unsigned_of(r)], ++r)
        WEFT_NCCL_CHECK(ncclBroadcast(r == rank() ? send.data : at(recv, first), at(recv, first),
                                      unsigned_of(counts[unsigned_of(r)]), type, r, comm, on));
    });
  }

  void do_reduce_scatter_v(ConstBuffer send, Buffer recv, Counts counts, ReduceOp op, Stream& stream) override {
    launch("reduce_scatter_v", stream, [&](ncclComm_t comm, cudaStream_t on) {
      const ncclDataType_t type = type_of(send.dtype);
      if (all_equal(counts)) {
        WEFT_NCCL_CHECK(ncclReduceScatter(send.data, recv.data, unsigned_of(recv.count), type, op_of(op), comm, on));
        return;
      }
      std::int64_t first = 0;
      for (int r = 0; r < size(); first += counts[unsigned_of(r)], ++r)
        WEFT_NCCL_CHECK(ncclReduce(at(send, first), r == rank() ? recv.data : nullptr,
                                   unsigned_of(counts[unsigned_of(r)]), type, op_of(op), r, comm, on));
    });
  }

  void do_all_to_all_v(ConstBuffer send, Counts send_counts, Buffer recv, Counts recv_counts, Stream& stream) override {
    launch("all_to_all_v", stream, [&](ncclComm_t comm, cudaStream_t on) {
      const ncclDataType_t type = type_of(send.dtype);
      std::int64_t from = 0, to = 0;
      for (int r = 0; r < size(); ++r) {
        const std::int64_t out = send_counts[unsigned_of(r)], in = recv_counts[unsigned_of(r)];
        if (out > 0) WEFT_NCCL_CHECK(ncclSend(at(send, from), unsigned_of(out), type, r, comm, on));
        if (in > 0) WEFT_NCCL_CHECK(ncclRecv(at(recv, to), unsigned_of(in), type, r, comm, on));
        from += out;
        to += in;
      }
    });
  }

  void do_broadcast(Buffer buffer, int root, Stream& stream) override {
    launch("broadcast", stream, [&](ncclComm_t comm, cudaStream_t on) {
      WEFT_NCCL_CHECK(
          ncclBroadcast(buffer.data, buffer.data, unsigned_of(buffer.count), type_of(buffer.dtype), root, comm, on));
    });
  }

  /// Messages of no bytes are left out on both sides: what two ranks exchange has the same length at either end.
  void do_send_recv(std::span<const SendOp> sends, std::span<const RecvOp> recvs, Stream& stream) override {
    launch("send_recv", stream, [&](ncclComm_t comm, cudaStream_t on) {
      for (const auto& [buffer, peer] : sends)
        if (buffer.count > 0)
          WEFT_NCCL_CHECK(ncclSend(buffer.data, unsigned_of(buffer.count), type_of(buffer.dtype), peer, comm, on));
      for (const auto& [buffer, peer] : recvs)
        if (buffer.count > 0)
          WEFT_NCCL_CHECK(ncclRecv(buffer.data, unsigned_of(buffer.count), type_of(buffer.dtype), peer, comm, on));
    });
  }

  /// The host's group first: who is in the new one says what its budget is.
  std::unique_ptr<Communicator> do_split(int color, int key, std::string_view child) override {
    std::shared_ptr<Communicator> host = split_host(color, key, child);
    auto group = group_->split(color, key, child_name(color, child), host ? budgets_->of(*host) : 0);
    if (!group) return nullptr;
    return std::make_unique<NcclCommunicator>(std::move(group), std::move(host), budgets_);  // NCCL's order is the same
  }

  std::shared_ptr<Communicator> split_host(int color, int key, std::string_view child) {
    group_->require_whole();
    try {
      return host_->split(color, key, child);
    } catch (...) {
      group_->abort(std::current_exception());
      throw;
    }
  }

  std::unique_ptr<Group> group_;
  std::shared_ptr<Communicator> host_;
  std::shared_ptr<const Budgets> budgets_;
};

/// What NCCL reads from the environment, unless the user has set it. Groups that share GPUs start their kernels in the
/// order of their launches, which is the plan's and the same on all ranks, whatever streams they are on: otherwise two
/// could each hold what the other needs (where NCCL has it: from 2.26 on). And links are made when a group is, so that
/// their memory is gone before a run looks at what it has. Recorded collectives take the way of all others: buffers are
/// not registered, which ranks would have to do together and which may sum in another order.
void prepare_environment() {
  constexpr int kOverwrite = 0;
  ::setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", kOverwrite);
  ::setenv("NCCL_RUNTIME_CONNECT", "0", kOverwrite);
  ::setenv("NCCL_GRAPH_REGISTER", "0", kOverwrite);
}

}  // namespace

std::unique_ptr<Communicator> make_communicator(std::shared_ptr<Communicator> host, Device device,
                                                const DeviceGroupOptions& options) {
  static std::once_flag prepared;
  std::call_once(prepared, prepare_environment);
  ncclUniqueId id{};
  if (host->rank() == 0) WEFT_NCCL_CHECK(ncclGetUniqueId(&id));
  host->broadcast({id.internal, NCCL_UNIQUE_ID_BYTES, DType::kU8}, 0, *make_inline_stream());
  CtaBudgets ctas = options.ctas;  // rank 0's: ranks may read files of different age
  host->broadcast(as_buffer(&ctas.intra_node, 1), 0, *make_inline_stream());
  host->broadcast(as_buffer(&ctas.inter_node, 1), 0, *make_inline_stream());
  auto budgets = std::make_shared<const Budgets>(*host, ctas);
  const Settings settings{host->timeout(), budgets->of(*host)};
  auto group = std::make_unique<Group>(id, host->rank(), host->size(), device, settings, host->name());
  static std::once_flag said;  // of a process's many ranks, in tests
  if (host->rank() == 0) std::call_once(said, [] { log()->info("collectives of GPUs: NCCL {}", version()); });
  return std::make_unique<NcclCommunicator>(std::move(group), std::move(host), std::move(budgets));
}

}  // namespace weft::comm::nccl
