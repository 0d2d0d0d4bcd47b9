// scheduler/timeline.h - when each task of a step ran: the common form of measured and simulated steps.
#pragma once

#include <array>
#include <vector>

#include "scheduler/graph.h"

namespace weft::scheduler {

/// Start and end of each task, in microseconds since the step began.
struct Timeline {
  std::vector<double> start_us;  ///< [tasks]
  std::vector<double> end_us;    ///< [tasks]
  double total_us = 0.0;
};

/// Time in which communication ran and computation did not: what a better schedule could still hide. Microseconds.
[[nodiscard]] double exposed_comm_us(const Graph& graph, const Timeline& timeline);

/// How a step used its device: from the start of the first task of a stream to the end of the last, and the part of
/// that in which no task of any stream ran. Beside a GPU that part is what the host let the device wait between tasks:
/// for launches, and for what it had to know first (Resource::kHost, whose own tasks do not count). Microseconds.
struct StreamUse {
  double span_us = 0.0, idle_us = 0.0;
};
[[nodiscard]] StreamUse stream_use(const Graph& graph, const Timeline& timeline);

/// Time in which a task on one resource and another task on the other ran at once (one that holds both does not count
/// by itself): [compute, intra, inter] squared, symmetric; on the diagonal, how long a resource was in use.
/// Microseconds.
[[nodiscard]] std::array<std::array<double, 3>, 3> overlap_us(const Graph& graph, const Timeline& timeline);

/// The same by stage: how long communication of each stage runs without any computation beside it. Stages on different
/// links may be exposed at once, so these can add up to more than exposed_comm_us.
[[nodiscard]] std::array<double, kNumStages> exposed_stage_us(const Graph& graph, const Timeline& timeline);

}  // namespace weft::scheduler
