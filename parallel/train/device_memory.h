// parallel/train/device_memory.h - whether a step fits the memory of its device, and a plan that would.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "core/device.h"
#include "core/error.h"
#include "parallel/train/trainer.h"

namespace weft::parallel {

/// Bytes that the products of a rank take for workspaces: a stream that computes has 32 MiB (kernels/cuda/blas.cpp),
/// the step has one and the validation pass another.
inline constexpr std::int64_t kProductWorkspaceBytes = std::int64_t{2 * 32} << 20;
/// Part of a GPU's free memory beyond these that plans leave alone: scratch of kernels, gaps of the pool.
inline constexpr double kDeviceMemoryMargin = 1.0 / 16.0;

/// Settings with which a step takes less memory.
struct SmallerStep {
  std::string sets;        ///< The options of the command that change the config to it.
  scheduler::Plan plan;    ///< Made with them.
  std::int64_t bytes = 0;  ///< Of the rank asked for, with its validation pass.
};
/// The first that fits `limit_bytes` on the rank of `mesh`: the config's own policy and a searched plan, with more and
/// more recomputed, then with smaller and smaller micro-batches. Nothing when none does.
[[nodiscard]] std::optional<SmallerStep> find_smaller_step(const RunConfig& config, const Mesh& mesh,
                                                           const scheduler::CostModel& cost, std::int64_t limit_bytes);

/// Throws Error{kOutOfMemory}, the same on every rank, when the steps of the ranks on some GPU need more than it has
/// free, less workspaces and margin: with the rank's need by memory class, and with find_smaller_step(). Nothing on the
/// CPU, where what is free is not known. Collective.
void require_device_memory(const RunConfig& config, comm::Communicator& world, const RunPlan& plan,
                           const scheduler::CostModel& cost, Device device);

/// What a later plan of this rank may need in all, once `plan` is bound: its own need and a share of what the device
/// has free, less the margin. The least of all ranks; 0 on the CPU: no limit. Collective.
[[nodiscard]] std::int64_t room_for_plans(comm::Communicator& world, const RunPlan& plan, Device device);

/// What to throw for `failure`, an allocation of this rank that failed though the plan was thought to fit: with the
/// same words. Not collective.
[[nodiscard]] Error explain_out_of_memory(const RunConfig& config, const RunPlan& plan,
                                          const scheduler::CostModel& cost, const Error& failure);

}  // namespace weft::parallel
