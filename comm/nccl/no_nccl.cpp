// comm/nccl/no_nccl.cpp - the NCCL backend of builds without NCCL.
#include "comm/nccl/backend.h"
#include "core/error.h"

namespace weft::comm::nccl {

std::string why_unavailable() { return "this build of Weft has no NCCL backend"; }

std::string version() { throw Error(ErrorCode::kUnavailable, why_unavailable()); }

std::unique_ptr<Communicator> make_communicator(std::shared_ptr<Communicator>, Device, const DeviceGroupOptions&) {
  throw Error(ErrorCode::kUnavailable, why_unavailable(), "let collectives go through the host");
}

}  // namespace weft::comm::nccl
