// tools/report/report.h - what a run folder says of its run, as one JSON document and as one HTML page.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace weft::tools {

/// report.json: {"schema": 1, "format": "weft.report", "run", "missing", "curves", "stages", "timeline", "router",
/// "traffic", "costs", "plan", "environment", "replans", "config"} (docs/report.md). A part that the folder has nothing
/// for is null, and "missing" says how a run records it: [{"what", "how"}]. Throws Error{kIo} without a metrics.jsonl,
/// Error{kInvalidArgument} for a file that is damaged.
[[nodiscard]] nlohmann::ordered_json make_report(const std::filesystem::path& run_dir);

/// A handful of lines for a terminal.
[[nodiscard]] std::vector<std::string> summary_lines(const nlohmann::ordered_json& report);

/// The page: everything in one file, nothing from a network.
[[nodiscard]] std::string html_page(const nlohmann::ordered_json& report);

}  // namespace weft::tools
