// tools/simulate/schedule_json.h - a simulated schedule as one JSON document that anyone can check.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "scheduler/graph.h"
#include "scheduler/timeline.h"

namespace weft::tools {

/// Appends the tasks: {id, name, stage, stream, layer, micro_batch, sub_batch, phase, chunk, start_ms, end_ms, deps}.
/// Tasks without resources are left out; their dependencies are taken over. `first_id` and `offset_us` are added, and
/// tasks without a dependency get `after`: for a phase that follows another.
void append_tasks(nlohmann::ordered_json& tasks, const scheduler::Graph& graph, const scheduler::Timeline& timeline,
                  std::int64_t first_id = 0, double offset_us = 0.0, const std::vector<std::int64_t>& after = {});

/// Writes {"policy", "total_ms", "tasks"} to `path`, whole or not at all. Throws kIo.
void write_schedule(const std::string& path, const std::string& policy, double total_ms, nlohmann::ordered_json tasks);

}  // namespace weft::tools
