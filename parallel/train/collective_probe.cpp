#include "parallel/train/collective_probe.h"

#include <algorithm>

#include "comm/cost.h"
#include "kernels/reduce.h"

namespace weft::parallel {
namespace {

using scheduler::WorkKind;

comm::Collective collective_of(WorkKind kind) {
  switch (kind) {
    case WorkKind::kAllToAll:
      return comm::Collective::kAllToAll;
    case WorkKind::kAllGather:
      return comm::Collective::kAllGather;
    case WorkKind::kReduceScatter:
      return comm::Collective::kReduceScatter;
    case WorkKind::kSendRecv:
      return comm::Collective::kSendRecv;
    default:
      return comm::Collective::kAllReduce;
  }
}

}  // namespace

CollectiveProbe::CollectiveProbe(comm::Communicator& group, WorkKind kind, double wire_bytes, Device device)
    : group_(group), kind_(kind) {
  const auto p = static_cast<std::int64_t>(group.size());
  const double whole = wire_bytes / comm::wire_bytes(collective_of(kind), group.size(), 1.0);
  share_ = std::max<std::int64_t>(1, static_cast<std::int64_t>(whole) / (p * std::int64_t{sizeof(float)}));
  send_ = Memory(device, share_ * p * std::int64_t{sizeof(float)});
  recv_ = Memory(device, send_.bytes());
  counts_.assign(static_cast<std::size_t>(p), share_);
  const auto stream = make_waiting_stream(device);
  stream->enqueue([&] {
    kernels::fill<float>(*stream, send_.as<float>(), count(), 1.0F);
    kernels::fill<float>(*stream, recv_.as<float>(), count(), 0.0F);
  });
  stream->synchronize();
}

double CollectiveProbe::buffer_bytes() const { return static_cast<double>(send_.bytes()); }

double CollectiveProbe::wire_bytes() const {
  return comm::wire_bytes(collective_of(kind_), group_.size(), buffer_bytes());
}

void CollectiveProbe::run(Stream& stream) {
  const std::int64_t n = count();
  float* const recv = recv_.as<float>();
  const comm::ConstBuffer all = comm::as_buffer(send_.as<const float>(), n);
  const comm::ConstBuffer share = comm::as_buffer(send_.as<const float>(), share_);
  switch (kind_) {
    case WorkKind::kAllToAll:
      return group_.all_to_all_v(all, counts_, comm::as_buffer(recv, n), counts_, stream);
    case WorkKind::kAllGather:
      return group_.all_gather_v(share, comm::as_buffer(recv, n), counts_, stream);
    case WorkKind::kReduceScatter:
      return group_.reduce_scatter_v(all, comm::as_buffer(recv, share_), counts_, comm::ReduceOp::kSum, stream);
    case WorkKind::kSendRecv:
      return shift(stream);
    default:
      return group_.all_reduce(all, comm::as_buffer(recv, n), comm::ReduceOp::kSum, stream);
  }
}

void CollectiveProbe::shift(Stream& stream) {
  const int p = group_.size(), to = (group_.rank() + 1) % p, from = (group_.rank() + p - 1) % p;
  const comm::SendOp send{comm::as_buffer(send_.as<const float>(), count()), to};
  const comm::RecvOp recv{comm::as_buffer(recv_.as<float>(), count()), from};
  group_.send_recv(std::span(&send, 1), std::span(&recv, 1), stream);
}

}  // namespace weft::parallel
