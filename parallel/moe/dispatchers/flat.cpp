// parallel/moe/dispatchers/flat.cpp - one collective over the whole EP group, and the exchange of rows over ESP.
#include "comm/communicator.h"
#include "parallel/moe/dispatchers/hops.h"
#include "parallel/step/step_context.h"

namespace weft::parallel {
namespace {

std::vector<std::int64_t> times(std::vector<std::int64_t> counts, std::int64_t width) {
  for (std::int64_t& n : counts) n *= width;
  return counts;
}

HopInfo flat_info(const Mesh& mesh, Direction direction) {
  const bool there = direction == Direction::kToExperts;
  HopInfo info;
  info.stage = there ? scheduler::Stage::kDispatch : scheduler::Stage::kCombine;
  info.resources = group_links(mesh, mesh.ep_size, mesh.esp_size);
  info.wire_rows = double(mesh.ep_size - 1) / mesh.ep_size;
  if (there) {
    info.most_rows = mesh.ep_size;
    info.most_shards = 1;
  }
  return info;
}

template <class T>
class FlatHop final : public Hop<T> {
 public:
  FlatHop(const Mesh& mesh, Direction direction)
      : Hop<T>(flat_info(mesh, direction)), there_(direction == Direction::kToExperts) {}
  [[nodiscard]] std::int64_t rows_in(const ChunkRows& rows) const override {
    return there_ ? rows.num_send : rows.num_recv;
  }
  [[nodiscard]] std::int64_t rows_out(const ChunkRows& rows) const override {
    return there_ ? rows.num_recv : rows.num_send;
  }
  void run(Stream& stream, const MeshComms& comms, const ChunkRows& rows, T* to, const T* from,
           std::int64_t width) const override {
    comms.ep().all_to_all_v(
        comm::as_buffer(from, rows_in(rows) * width), times(there_ ? rows.send_rows : rows.recv_rows, width),
        comm::as_buffer(to, rows_out(rows) * width), times(there_ ? rows.recv_rows : rows.send_rows, width), stream);
  }

 private:
  bool there_;
};

HopInfo shard_info(const Mesh& mesh, Direction direction) {
  const bool there = direction == Direction::kToExperts;
  HopInfo info;
  info.stage = there ? scheduler::Stage::kAllGather : scheduler::Stage::kReduceScatter;
  info.kind = there ? scheduler::WorkKind::kAllGather : scheduler::WorkKind::kReduceScatter;
  info.resources = group_links(mesh, mesh.esp_size, 1);
  info.wire_rows = mesh.esp_size - 1;
  info.mean_rows = there ? mesh.esp_size : 1;
  info.most_rows = info.mean_rows * mesh.ep_size;
  info.most_shards = there ? mesh.esp_size : 1;
  return info;
}

/// Arrived rows to all ESP peers; or the sum of the peers' rows to where they arrived.
template <class T>
class ShardHop final : public Hop<T> {
 public:
  ShardHop(const Mesh& mesh, Direction direction)
      : Hop<T>(shard_info(mesh, direction)), there_(direction == Direction::kToExperts) {}
  [[nodiscard]] std::int64_t rows_in(const ChunkRows& rows) const override {
    return there_ ? rows.num_recv : rows.num_rows;
  }
  [[nodiscard]] std::int64_t rows_out(const ChunkRows& rows) const override {
    return there_ ? rows.num_rows : rows.num_recv;
  }
  void run(Stream& stream, const MeshComms& comms, const ChunkRows& rows, T* to, const T* from,
           std::int64_t width) const override {
    const std::vector<std::int64_t> counts = times(rows.shard_rows, width);
    const auto send = comm::as_buffer(from, rows_in(rows) * width);
    const auto recv = comm::as_buffer(to, rows_out(rows) * width);
    if (there_)
      comms.esp().all_gather_v(send, recv, counts, stream);
    else
      comms.esp().reduce_scatter_v(send, recv, counts, comm::ReduceOp::kSum, stream);
  }

 private:
  bool there_;
};

}  // namespace

template <class T>
Hops<T> flat_hops(const Mesh& mesh, Direction direction) {
  return {std::make_shared<FlatHop<T>>(mesh, direction)};
}
template <class T>
Hops<T> shard_hops(const Mesh& mesh, Direction direction) {
  if (mesh.esp_size == 1) return {};
  return {std::make_shared<ShardHop<T>>(mesh, direction)};
}

template Hops<float> flat_hops<float>(const Mesh&, Direction);
template Hops<double> flat_hops<double>(const Mesh&, Direction);
template Hops<BF16> flat_hops<BF16>(const Mesh&, Direction);
template Hops<float> shard_hops<float>(const Mesh&, Direction);
template Hops<double> shard_hops<double>(const Mesh&, Direction);
template Hops<BF16> shard_hops<BF16>(const Mesh&, Direction);

}  // namespace weft::parallel
