// tools/report/step_view.h - one step's tasks in time: read back from a trace, and as figures to draw.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/graph.h"
#include "scheduler/timeline.h"

namespace weft::tools {

/// Tasks without edges or buffers: enough for pictures and overlaps.
struct StepView {
  std::string name;  ///< "measured, step 10", "simulated".
  scheduler::Graph graph;
  scheduler::Timeline timeline;
  std::vector<std::string> label;  ///< [tasks]: what Graph::name says before the task's place.
};

/// The timelines of a trace.json (scheduler/trace.h), in its order. Throws Error{kInvalidArgument} naming `origin` for
/// other text.
[[nodiscard]] std::vector<StepView> read_trace(const std::string& text, const std::string& origin);

/// {"name", "total_ms", "exposed_comm_ms", "streams": [names], "kinds": [{"label", "stage", "phase"}], "left_out",
///  "tasks": [[stream, lane, kind, start_us, duration_us, layer, micro_batch, chunk]], "overlap": ...}. Tasks of a
///  stream
/// that overlap stand on lanes of their own. Of a huge step the shortest tasks are left out. -1: does not apply.
[[nodiscard]] nlohmann::ordered_json step_json(const StepView& step, std::size_t most_tasks = 11000);

/// By scheduler::overlap_us: {"busy_ms": {"compute", "intra", "inter"}, "pairs": [{"a", "b", "ms", "share"}]}; share:
/// of the time in which the less used of the two was in use, null when it was not.
[[nodiscard]] nlohmann::ordered_json overlap_json(const StepView& step);

}  // namespace weft::tools
