// tools/report/metrics_table.h - metrics.jsonl as columns.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace weft::tools {

/// What each expert took in during one step (parallel/train/metrics.h).
struct RouterRecord {
  std::int64_t step = 0;
  std::vector<std::vector<std::int64_t>> tokens;  ///< [MoE layers][E]
};

struct MetricsTable {
  std::vector<std::int64_t> step;                     ///< [steps], rising.
  std::map<std::string, std::vector<double>> column;  ///< By key, [steps] each; not a number where a line lacks it.
  std::vector<RouterRecord> router;
};

/// line: the first of a metrics.jsonl. Throws Error{kInvalidArgument}, with `origin`, for another format, or with the
/// schema found and the one known (parallel::kMetricsSchema).
void check_metrics_head(const nlohmann::json& line, const std::string& origin);

/// A last line that was cut off by the end of the run is left out. Throws Error{kIo} for a missing file,
/// Error{kInvalidArgument} for one that is no metrics.jsonl. An empty file has no steps.
[[nodiscard]] MetricsTable read_metrics(const std::filesystem::path& path);

/// The curves: {"steps", "shown", "step": [...], "column": {"loss": [...], ...}, "validation": {"step", "loss"}}. Of a
/// long run at most `most` steps: the first, the last, and those of the lowest and highest loss in equal stretches.
[[nodiscard]] nlohmann::ordered_json curves_json(const MetricsTable& table, std::size_t most = 1000);

}  // namespace weft::tools
