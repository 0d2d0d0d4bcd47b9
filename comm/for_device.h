// comm/for_device.h - which device a rank computes on, and the groups over that device's memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/communicator.h"
#include "core/device.h"

namespace weft::comm {

/// How memory of GPUs travels. kNccl: between GPUs, one rank each. kHost: through host memory and the world's backend,
/// also for ranks that share a GPU. kAuto: NCCL where there are several ranks, each has a GPU of its own, and NCCL can
/// be loaded on all of them; else through the host.
enum class Transport : std::uint8_t { kAuto, kNccl, kHost };

/// NCCL: how many blocks of threads (CTAs, at most one on an SM) the kernels of a group take from computation, fixed
/// when the group is made; 0: NCCL decides. Groups whose ranks all share a node (comm/topology.h), and all others.
struct CtaBudgets {
  int intra_node = 0, inter_node = 0;
  friend bool operator==(const CtaBudgets&, const CtaBudgets&) = default;
};
inline constexpr int kMostCtas = 64;  ///< NCCL's own limit.

struct DeviceGroupOptions {
  Transport transport = Transport::kAuto;
  CtaBudgets ctas = {};  ///< Of the group that is made, and of all that are split from it.
};

/// Why this process cannot use NCCL: not in the build, or not installed; "" when it can.
[[nodiscard]] std::string why_no_nccl();
/// "2.28.9"; throws Error{kUnavailable} where there is none.
[[nodiscard]] std::string nccl_version();

/// Collective over `world`, a group over host memory. kCuda: the ranks of a machine take its GPUs in turn, in order of
/// rank; where there are fewer, some share one. Throws Error{kUnavailable} on all ranks when one of them sees no GPU.
[[nodiscard]] Device choose_device(Communicator& world, DeviceKind kind);

/// What kAuto is for `world`, a group over host memory, and `device` of this rank: kNccl or kHost. Collective; the same
/// on every rank.
[[nodiscard]] Transport find_transport(Communicator& world, Device device);

/// Collective over `world`, a group over host memory: the same ranks in the same order, for buffers on `device`; the
/// groups of a run are split from it, with the world's timeout. On the CPU, a group of its own of the world's backend.
/// Logs on rank 0 what it took. Throws Error{kUnavailable} on all ranks when kNccl cannot be had.
[[nodiscard]] std::unique_ptr<Communicator> for_device(Communicator& world, Device device,
                                                       const DeviceGroupOptions& options = {});

}  // namespace weft::comm
