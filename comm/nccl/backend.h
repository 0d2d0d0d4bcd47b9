// comm/nccl/backend.h - what comm/factory.cpp needs from the NCCL backend; no_nccl.cpp answers in builds without it.
#pragma once

#include <chrono>
#include <memory>

#include "comm/communicator.h"

namespace weft::comm::nccl {

/// All ranks that the launcher started, one GPU each. Throws Error{kUnavailable} without NCCL.
[[nodiscard]] std::unique_ptr<Communicator> make_world(std::chrono::milliseconds timeout);

}  // namespace weft::comm::nccl
