// parallel/train/figures.h - the figures of a step under the names that TensorBoard's and Prometheus' users know.
// Sources: tags as torchtitan's, so that its boards fit; Prometheus' "Metric and label naming" (base units, _total for
// counters) and its text exposition format.
#pragma once

#include <string>
#include <vector>

#include "parallel/train/event_file.h"
#include "parallel/train/metrics.h"

namespace weft::parallel {

struct StepResult;

/// The line's numbers by tag; of each MoE layer, "moe/layer_03/max_vio" (the layer's place in the model), entropy and
/// dead_experts (docs/report.md has the formulas).
[[nodiscard]] std::vector<Scalar> tensorboard_scalars(const MetricsLine& line, const StepResult& result);

/// The line's numbers as "weft_loss{run="name"} 1.5" with their help and type.
[[nodiscard]] std::string prometheus_text(const MetricsLine& line, const std::string& run);

}  // namespace weft::parallel
