#include "parallel/train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace weft::parallel {

double learning_rate(const OptimizerConfig& c, std::int64_t step, std::int64_t num_steps) {
  if (step <= c.warmup_steps) return c.lr * static_cast<double>(step) / c.warmup_steps;
  const double min = c.lr * c.min_lr_ratio;
  const double span = static_cast<double>(std::max<std::int64_t>(1, num_steps - c.warmup_steps));
  const double p = std::clamp(static_cast<double>(step - c.warmup_steps) / span, 0.0, 1.0);
  switch (c.schedule) {
    case LrSchedule::kConstant:
      return c.lr;
    case LrSchedule::kCosine:
      return min + (c.lr - min) * 0.5 * (1.0 + std::cos(std::numbers::pi * p));
    case LrSchedule::kLinear:
      return c.lr + (min - c.lr) * p;
    case LrSchedule::kWsd: {
      const double decay_steps = std::max(1.0, c.wsd_decay_fraction * static_cast<double>(num_steps));
      const double left = static_cast<double>(num_steps - step) / decay_steps;
      return left >= 1.0 ? c.lr : min + (c.lr - min) * std::max(0.0, left);
    }
  }
  return c.lr;
}

}  // namespace weft::parallel
