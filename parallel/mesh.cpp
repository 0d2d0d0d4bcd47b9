#include "parallel/mesh.h"

#include <vector>

#include "core/error.h"
#include "core/memory.h"

namespace weft::parallel {
namespace {

void check_divides(int size, int world_size, const char* fields) {
  if (size < 1 || world_size % size != 0)
    throw Error(ErrorCode::kInvalidArgument,
                str(fields, " is ", size, ", which does not divide the ", world_size, " ranks of the job"),
                "choose a divisor of the number of ranks");
}

}  // namespace

Mesh make_mesh(int world_size, int world_rank, const MeshOptions& options) {
  const bool sharded = options.esp_size != 1;
  check_divides(options.ep_size * options.esp_size, world_size,
                sharded ? "parallel.expert * parallel.expert_shard" : "parallel.expert");
  check_divides(options.sequence_heads * options.sequence_ring, world_size,
                "parallel.sequence_heads * parallel.sequence_ring");
  Mesh mesh;
  static_cast<MeshOptions&>(mesh) = options;
  mesh.world_size = world_size;
  mesh.world_rank = world_rank;
  return mesh;
}

void sum_in_place(comm::Communicator& group, comm::Buffer buffer, Stream& stream) {
  if (group.size() > 1) group.all_reduce(buffer, buffer, comm::ReduceOp::kSum, stream);
}

MeshComms::MeshComms(comm::Communicator& host_world, const Mesh& mesh, Device device, const comm::CtaBudgets& ctas)
    : host_world_(&host_world),
      device_world_(device.kind != DeviceKind::kCpu ? comm::for_device(host_world, device, {.ctas = ctas}) : nullptr),
      world_(device_world_ ? device_world_.get() : &host_world) {
  comm::Communicator& world = *world_;
  ep_ = world.split(mesh.edp_rank() * mesh.esp_size + mesh.esp_rank(), mesh.ep_rank());
  const int ep_group = mesh.edp_rank() * mesh.esp_size + mesh.esp_rank();
  ep_inside_ = world.split(ep_group * mesh.ep_size + mesh.ep_rank() / mesh.ep_lanes(), mesh.ep_rank());
  ep_across_ = world.split(ep_group * mesh.ep_size + mesh.ep_rank() % mesh.ep_lanes(), mesh.ep_rank());
  esp_ = world.split(mesh.edp_rank() * mesh.ep_size + mesh.ep_rank(), mesh.esp_rank());
  experts_ = world.split(mesh.edp_rank(), mesh.esp_rank() * mesh.ep_size + mesh.ep_rank());
  edp_ = world.split(mesh.ep_rank() * mesh.esp_size + mesh.esp_rank(), mesh.edp_rank());
  sp_ = world.split(mesh.dp_rank(), mesh.sp_rank());
  heads_ = world.split(mesh.dp_rank() * mesh.sequence_ring + mesh.ring_rank(), mesh.head_rank());
  ring_ = world.split(mesh.dp_rank() * mesh.sequence_heads + mesh.head_rank(), mesh.ring_rank());
  const auto stream = make_waiting_stream(device);
  const Memory sent(device, mesh.world_size), received(device, mesh.world_size);
  stream->enqueue([&] {
    for (comm::Communicator* group : {world_, ep_.get(), ep_inside_.get(), ep_across_.get(), esp_.get(), experts_.get(),
                                      edp_.get(), sp_.get(), heads_.get(), ring_.get()}) {
      const std::vector<std::int64_t> one_each(static_cast<std::size_t>(group->size()), 1);
      const comm::ConstBuffer send{sent.data(), group->size(), DType::kU8};
      group->all_to_all_v(send, one_each, {received.data(), group->size(), DType::kU8}, one_each, *stream);
    }
  });
  stream->synchronize();
}

}  // namespace weft::parallel
