// parallel/train/run_device.h - what a run computes on.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/for_device.h"
#include "core/device.h"
#include "parallel/train/run_config.h"
#include "scheduler/cost_model.h"

namespace weft::parallel {

/// The device of this rank, by parallel.device. Collective; the same kind on every rank. kAuto logs on rank 0 why it
/// took the CPU in a build with CUDA. Throws Error{kUnavailable} on every rank when kCuda cannot be had.
[[nodiscard]] Device run_device(const RunConfig& config, comm::Communicator& world);
/// The same for a choice that was made elsewhere: `setting` is what to call it in an error, e.g. "--device".
[[nodiscard]] Device run_device(DeviceChoice choice, const char* setting, comm::Communicator& world);

/// What NCCL's groups of a run may take from computation: parallel.intra_node_ctas and parallel.inter_node_ctas; where
/// one is 0, what scheduler::choose_ctas takes of `samples`.
[[nodiscard]] comm::CtaBudgets cta_budgets(const RunConfig& config, const std::vector<scheduler::CtaSample>& samples);
/// The same as a line for the log, with where each is from.
[[nodiscard]] std::string describe_ctas(const RunConfig& config, const std::vector<scheduler::CtaSample>& samples);

}  // namespace weft::parallel
