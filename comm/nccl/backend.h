// comm/nccl/backend.h - what comm/for_device.cpp needs from the NCCL backend; no_nccl.cpp answers in builds without it.
#pragma once

#include <memory>
#include <string>

#include "comm/communicator.h"
#include "comm/for_device.h"

namespace weft::comm::nccl {

/// Why this process cannot use NCCL: not in the build, or not installed; "" when it can.
[[nodiscard]] std::string why_unavailable();
/// Of the library that is loaded: "2.28.9". Throws Error{kUnavailable} without it.
[[nodiscard]] std::string version();
/// Collective over `host`: its ranks, each with a GPU of its own, `device`. `host` brings them together and ends the
/// job on abort(). Throws Error{kUnavailable} without NCCL.
[[nodiscard]] std::unique_ptr<Communicator> make_communicator(std::shared_ptr<Communicator> host, Device device,
                                                              const DeviceGroupOptions& options);

}  // namespace weft::comm::nccl
