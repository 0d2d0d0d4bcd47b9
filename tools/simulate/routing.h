// tools/simulate/routing.h - how unevenly routing loads the ranks that share the experts.
#pragma once

#include <string>
#include <vector>

#include "parallel/train/run_config.h"

namespace weft::tools {

/// The busiest rank's rows over the mean, for each layer of the model; 1 for dense layers. It multiplies what a layer's
/// experts compute and what a rank sends in its all-to-alls. For these it is exact where all ranks' tokens are routed
/// alike: the busiest rank receives that many times the mean, and nobody sends more (a rank with share s of P ranks'
/// rows sends (P - s) / (P - 1) times the mean, which the largest share is at least). Hops of hierarchical dispatchers
/// are evened out by the rows of their node, so for them it is an upper bound.
struct RankLoads {
  std::vector<double> by_layer;  ///< [model.layers], each >= 1.
  int steps = 0;                 ///< Recorded steps behind it; 0: none.
};

/// Every token sends as many of its choices as it can to the experts of one rank, in every layer; what is over an
/// expert's capacity is dropped.
[[nodiscard]] RankLoads worst_loads(const parallel::RunConfig& config);

/// From "expert_tokens" of a metrics.jsonl (parallel/train/metrics.h): each recorded step's counts, added up over the
/// experts of each of the config's parallel.expert ranks; of a layer's loads, the `quantile`. A step is taken as one:
/// micro-batches and replicas of experts that differ from its sum are not in the file.
/// Throws kIo for a file that cannot be read, kInvalidArgument for one without counts or of another model.
[[nodiscard]] RankLoads recorded_loads(const std::string& path, const parallel::RunConfig& config, double quantile);

}  // namespace weft::tools
