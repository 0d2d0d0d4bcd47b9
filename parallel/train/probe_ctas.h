// parallel/train/probe_ctas.h - times what budgets of CTAs of NCCL's groups cost, alone and beside computation.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/device.h"
#include "scheduler/cost_model.h"

namespace weft::parallel {

/// What runs beside the all-to-alls: `products` products of an expert's [width] -> [hidden].
struct ExpertSize {
  std::int64_t width = 0, hidden = 0;
  int products = 0;
};

/// Collective over `world`, a group over host memory whose ranks lie `ranks_per_node` on a node: for NCCL's own choice
/// and for budgets of 2, 4, 8, 16 and 32 CTAs, the all-to-alls of a chunk of a MoE layer (its rows there, and back),
/// the experts' products (of Ts) on those rows, and both at once on two streams of `device`. Inside nodes, and between
/// ranks of equal place on their nodes; a link class that does not exist has no samples. Groups of a budget are made
/// for its samples alone, which takes NCCL's start-up each time. A sample is the median of `rounds` means over ranks,
/// per chunk. The same on every rank. Throws Error{kUnavailable} where NCCL cannot be had (comm::find_transport).
template <class T>
[[nodiscard]] std::vector<scheduler::CtaSample> probe_ctas(comm::Communicator& world, int ranks_per_node,
                                                           const ExpertSize& expert, int rounds, Device device);

}  // namespace weft::parallel
