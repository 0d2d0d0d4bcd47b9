#include "parallel/train/collective_probe.h"

#include <algorithm>

#include "comm/cost.h"

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

CollectiveProbe::CollectiveProbe(comm::Communicator& group, WorkKind kind, double wire_bytes)
    : group_(group), kind_(kind) {
  const auto p = static_cast<std::int64_t>(group.size());
  const double whole = wire_bytes / comm::wire_bytes(collective_of(kind), group.size(), 1.0);
  share_ = std::max<std::int64_t>(1, static_cast<std::int64_t>(whole) / (p * std::int64_t{sizeof(float)}));
  send_.assign(static_cast<std::size_t>(share_ * p), 1.0F);
  recv_.assign(send_.size(), 0.0F);
  counts_.assign(static_cast<std::size_t>(p), share_);
}

double CollectiveProbe::buffer_bytes() const { return static_cast<double>(send_.size()) * sizeof(float); }

double CollectiveProbe::wire_bytes() const {
  return comm::wire_bytes(collective_of(kind_), group_.size(), buffer_bytes());
}

void CollectiveProbe::run(Stream& stream) {
  const auto n = static_cast<std::int64_t>(send_.size());
  const comm::ConstBuffer all = comm::as_buffer(static_cast<const float*>(send_.data()), n);
  const comm::ConstBuffer share = comm::as_buffer(static_cast<const float*>(send_.data()), share_);
  switch (kind_) {
    case WorkKind::kAllToAll:
      return group_.all_to_all_v(all, counts_, comm::as_buffer(recv_.data(), n), counts_, stream);
    case WorkKind::kAllGather:
      return group_.all_gather_v(share, comm::as_buffer(recv_.data(), n), counts_, stream);
    case WorkKind::kReduceScatter:
      return group_.reduce_scatter_v(all, comm::as_buffer(recv_.data(), share_), counts_, comm::ReduceOp::kSum, stream);
    case WorkKind::kSendRecv:
      return shift(stream);
    default:
      return group_.all_reduce(all, comm::as_buffer(recv_.data(), n), comm::ReduceOp::kSum, stream);
  }
}

void CollectiveProbe::shift(Stream& stream) {
  const auto n = static_cast<std::int64_t>(send_.size());
  const int p = group_.size(), to = (group_.rank() + 1) % p, from = (group_.rank() + p - 1) % p;
  const comm::SendOp send{comm::as_buffer(static_cast<const float*>(send_.data()), n), to};
  const comm::RecvOp recv{comm::as_buffer(recv_.data(), n), from};
  group_.send_recv(std::span(&send, 1), std::span(&recv, 1), stream);
}

}  // namespace weft::parallel
