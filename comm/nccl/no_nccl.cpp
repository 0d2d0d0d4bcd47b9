// comm/nccl/no_nccl.cpp - the NCCL backend of builds without NCCL.
#include "comm/nccl/backend.h"
#include "core/error.h"

namespace weft::comm::nccl {

std::unique_ptr<Communicator> make_world(std::chrono::milliseconds) {
  throw Error(ErrorCode::kUnavailable, "this build of Weft has no NCCL backend", "use the mpi backend on the CPU");
}

}  // namespace weft::comm::nccl
