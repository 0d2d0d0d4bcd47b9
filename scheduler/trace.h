// scheduler/trace.h - a step as a picture: what ran when on which stream, and what waited for what.
#pragma once

#include <span>
#include <string>

#include "scheduler/graph.h"
#include "scheduler/timeline.h"

namespace weft::scheduler {

/// One timeline of a trace: a measured or a simulated run of `graph`, which both outlive the call.
struct TraceProcess {
  std::string name;  ///< "measured, rank 0"
  const Graph* graph = nullptr;
  const Timeline* timeline = nullptr;
};

/// Chrome trace event format (JSON object form), for ui.perfetto.dev or chrome://tracing: a process per timeline, in it
///   - a track per stream (set of resources) with a slice per task, its place and work as arguments. Slices of a track
///     may not overlap, so tasks of a stream that do stand on further tracks below ("intra #2");
///   - an asynchronous track per stream: when it works for each micro-batch, forward and backward;
///   - an arrow from each other stream to a task that waits for it. Arrows bind to slices of tracks, not to
///     asynchronous events: hence the tasks are not asynchronous ones;
///   - the bytes of the buffers in use, by class.
/// Times in microseconds. The same input gives the same text. Sources: Trace Event Format, Google, 2016; Perfetto's
/// documentation of it, "Visualizing external trace formats".
[[nodiscard]] std::string chrome_trace(std::span<const TraceProcess> processes);

/// The graph in Graphviz's DOT language: tasks by stream colour, edges. The same input gives the same text.
[[nodiscard]] std::string dot(const Graph& graph);

/// "compute", "intra+inter", ...: the name of the stream of a set of resources; "none" for the empty set.
[[nodiscard]] std::string stream_name(ResourceSet resources);

}  // namespace weft::scheduler
