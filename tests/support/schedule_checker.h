// tests/support/schedule_checker.h - is a simulated schedule one that could run?
#pragma once

#include <string>
#include <vector>

#include "scheduler/cost_model.h"
#include "scheduler/plan.h"
#include "scheduler/timeline.h"

namespace weft::test {

/// Every fault of a schedule, by plain loops: a task that starts before one it depends on has ended, two tasks at once
/// that share a stream, a duration that is not the task's price, a total that is not the last end, more micro-batches
/// in flight than the shape allows. Empty: a valid schedule.
[[nodiscard]] std::vector<std::string> faults(const scheduler::Graph& graph, const scheduler::Shape& shape,
                                              const scheduler::CostModel& cost, const scheduler::Timeline& timeline);

}  // namespace weft::test
