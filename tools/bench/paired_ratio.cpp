#include "tools/bench/paired_ratio.h"

#include "core/error.h"
#include "core/rng.h"
#include "scheduler/fit.h"

namespace weft::tools {

PairedRatio paired_ratio(const std::vector<double>& slower, const std::vector<double>& faster) {
  WEFT_CHECK(!slower.empty() && slower.size() == faster.size(), "both are measured in every round");
  constexpr int kResamples = 2000;
  const Rng rng(1, RngPurpose::kResample);
  std::vector<double> ratios, a(slower.size()), b(slower.size());
  for (int k = 0; k < kResamples; ++k) {
    for (std::size_t i = 0; i < a.size(); ++i) {
      const auto at = rng.below(slower.size(), static_cast<std::uint64_t>(k) * slower.size() + i);
      a[i] = slower[at];
      b[i] = faster[at];
    }
    ratios.push_back(scheduler::quantile(a, 0.5) / scheduler::quantile(b, 0.5));
  }
  return {scheduler::quantile(slower, 0.5) / scheduler::quantile(faster, 0.5), scheduler::quantile(ratios, 0.025),
          scheduler::quantile(ratios, 0.975)};
}

}  // namespace weft::tools
