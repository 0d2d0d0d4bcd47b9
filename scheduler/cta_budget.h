// scheduler/cta_budget.h - how many CTAs NCCL's groups may take from computation, by what weft profile measured.
#pragma once

#include <span>

#include "scheduler/cost_model.h"

namespace weft::scheduler {

/// What a budget loses of a MoE layer that is cut into two chunks, the fewest of which anything overlaps:
///   loss = collective_us + (overlapped_us - product_us)
/// The first chunk's dispatch and the last one's combine have nothing beside them, and cost their whole time
/// (collective_us): too few CTAs make them slow. The other two all-to-alls run beside the experts, and cost what both
/// together take longer than the products alone: too many CTAs take SMs from the products, and too few outlast them.
[[nodiscard]] double loss_us(const CtaSample& sample);

/// The budget for groups of `link` (kIntra or kInter): of its samples, one whose loss is within 2 % of the layer's time
/// of the smallest, which is about what such measurements are good for. Of several, NCCL's own choice (0) where it is
/// one of them, else the fewest CTAs: what runs beside other tasks than the experts takes the least from them. 0, too,
/// where nothing was measured.
[[nodiscard]] int choose_ctas(std::span<const CtaSample> samples, LinkClass link);

}  // namespace weft::scheduler
