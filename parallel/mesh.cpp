#include "parallel/mesh.h"

#include "core/error.h"

namespace weft::parallel {

Mesh make_mesh(int world_size, int world_rank, int ep_size, int ranks_per_node) {
  if (ep_size < 1 || world_size % ep_size != 0)
    throw Error(ErrorCode::kInvalidArgument,
                str("parallel.expert is ", ep_size, ", which does not divide the ", world_size, " ranks of the job"),
                "choose a divisor of the number of ranks");
  return {world_size, world_rank, ep_size, ranks_per_node};
}

MeshComms::MeshComms(comm::Communicator& world, const Mesh& mesh) : world_(&world) {
  ep_ = world.split(mesh.edp_rank(), mesh.ep_rank());
  edp_ = world.split(mesh.ep_rank(), mesh.edp_rank());
  const auto stream = make_inline_stream();
  for (comm::Communicator* group : {world_, ep_.get(), edp_.get()}) comm::barrier(*group, *stream);
}

}  // namespace weft::parallel
