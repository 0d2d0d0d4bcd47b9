#include "scheduler/cta_budget.h"

#include <algorithm>
#include <vector>

namespace weft::scheduler {

double loss_us(const CtaSample& sample) { return sample.collective_us + sample.overlapped_us - sample.product_us; }

int choose_ctas(std::span<const CtaSample> samples, LinkClass link) {
  constexpr double kNoise = 0.02;
  std::vector<CtaSample> of_link;
  std::copy_if(samples.begin(), samples.end(), std::back_inserter(of_link),
               [&](const CtaSample& sample) { return sample.link == link; });
  if (of_link.empty()) return 0;
  const CtaSample& best = *std::min_element(
      of_link.begin(), of_link.end(), [](const CtaSample& a, const CtaSample& b) { return loss_us(a) < loss_us(b); });
  const double layer_us = best.collective_us + best.overlapped_us + best.product_us;
  int ctas = best.ctas;
  for (const CtaSample& sample : of_link)
    if (loss_us(sample) <= loss_us(best) + kNoise * layer_us) ctas = std::min(ctas, sample.ctas);
  return ctas;
}

}  // namespace weft::scheduler
