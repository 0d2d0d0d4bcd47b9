// tools/bench/paired_ratio.h - how many times faster one of two interleaved measurements is, and how sure that is.
#pragma once

#include <vector>

namespace weft::tools {

struct PairedRatio {
  double ratio = 1.0;            ///< Median of `slower` over median of `faster`.
  double low = 1.0, high = 1.0;  ///< 95 % interval: percentiles of the bootstrap over rounds.
};

/// slower, faster: [rounds], of the same rounds; a resample takes both of a round, as they share its drift. The same
/// result for the same numbers (the resampling has a fixed seed). Source: Efron, Tibshirani, "An Introduction to the
/// Bootstrap", 1993, chapter 13 (percentile intervals). Rounds >= 1, times > 0.
[[nodiscard]] PairedRatio paired_ratio(const std::vector<double>& slower, const std::vector<double>& faster);

}  // namespace weft::tools
