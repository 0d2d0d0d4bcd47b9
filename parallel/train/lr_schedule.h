// parallel/train/lr_schedule.h - the learning rate as a pure function of the step.
#pragma once

#include "parallel/train/run_config.h"

namespace weft::parallel {

/// Learning rate of update `step` (from 1) of `num_steps`. Warm-up: linear, lr * step / warmup_steps. After it, with
/// p = (step - warmup) / (num_steps - warmup) in [0, 1]:
///   kConstant  lr
///   kCosine    min + (lr - min) * (1 + cos(pi p)) / 2        (arXiv:1608.03983, eq. 5)
///   kLinear    lr + (min - lr) * p
///   kWsd       lr until the last wsd_decay_fraction of all steps, then linear to min (arXiv:2404.06395, section 4)
/// with min = lr * min_lr_ratio.
[[nodiscard]] double learning_rate(const OptimizerConfig& config, std::int64_t step, std::int64_t num_steps);

}  // namespace weft::parallel
