#include "tools/report/metrics_table.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <set>

#include "core/error.h"
#include "parallel/train/metrics.h"

namespace weft::tools {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

void add_line(MetricsTable& table, const json& line) {
  const std::size_t row = table.step.size();
  table.step.push_back(line.at("step").get<std::int64_t>());
  for (const auto& [key, value] : line.items())
    if (key != "step" && value.is_number()) {
      std::vector<double>& column = table.column[key];
      column.resize(row, kMissing);
      column.push_back(value.get<double>());
    }
  for (auto& [key, column] : table.column) column.resize(row + 1, kMissing);
  const auto tokens = line.find("expert_tokens");
  if (tokens == line.end()) return;
  RouterRecord record{table.step.back(), {}};
  tokens->get_to(record.tokens);
  const bool fits = table.router.empty() ||
                    std::ranges::equal(
                        record.tokens, table.router.front().tokens, {}, [](const auto& layer) { return layer.size(); },
                        [](const auto& layer) { return layer.size(); });
  if (fits) table.router.push_back(std::move(record));
}

/// Rows to draw, rising.
std::vector<std::size_t> picked_rows(const MetricsTable& table, std::size_t most) {
  const std::size_t n = table.step.size();
  std::set<std::size_t> rows;
  if (n <= most)
    for (std::size_t i = 0; i < n; ++i) rows.insert(rows.end(), i);
  else {
    rows = {0, n - 1};
    const auto loss = table.column.find("loss");
    const auto value = [&](std::size_t i) { return loss == table.column.end() ? 0.0 : loss->second[i]; };
    const std::size_t stretches = most / 2 - 1;
    for (std::size_t s = 0; s < stretches; ++s) {
      std::size_t low = n * s / stretches, high = low;
      for (std::size_t i = low; i < n * (s + 1) / stretches; ++i) {
        if (value(i) < value(low)) low = i;
        if (value(i) > value(high)) high = i;
      }
      rows.insert({low, high});
    }
  }
  return {rows.begin(), rows.end()};
}

/// At most `most` of the validations, evenly, with the last.
ordered_json validation_json(const MetricsTable& table, const std::vector<double>& losses, std::size_t most) {
  std::vector<std::size_t> rows;
  for (std::size_t i = 0; i < losses.size(); ++i)
    if (!std::isnan(losses[i])) rows.push_back(i);
  ordered_json out{{"step", ordered_json::array()}, {"loss", ordered_json::array()}};
  const std::size_t shown = std::min(rows.size(), most);
  for (std::size_t i = 0; i < shown; ++i) {
    const std::size_t row = rows[(i + 1) * rows.size() / shown - 1];
    out["step"].push_back(table.step[row]);
    out["loss"].push_back(losses[row]);
  }
  return out;
}

}  // namespace

void check_metrics_head(const json& line, const std::string& origin) {
  const auto format = line.is_object() ? line.find("format") : line.end();
  if (format == line.end() || *format != "weft.metrics")
    throw Error(ErrorCode::kInvalidArgument, origin + ": the first line does not say weft.metrics",
                "give the folder of a run, as weft train made it");
  const json schema = line.contains("schema") ? line["schema"] : json();
  if (schema != parallel::kMetricsSchema)
    throw Error(ErrorCode::kInvalidArgument,
                str(origin, ": schema ", schema.dump(), ", this weft knows schema ", parallel::kMetricsSchema),
                "read it with the weft that wrote it");
}

MetricsTable read_metrics(const std::filesystem::path& path) {
  std::ifstream in(path);
  if (!in)
    throw Error(ErrorCode::kIo, str("cannot read ", path.string()), "give the folder of a run, as weft train made it");
  MetricsTable table;
  std::string line;
  for (std::int64_t number = 1; std::getline(in, line); ++number) {
    const json entry = json::parse(line, nullptr, false);
    if (number == 1) {
      check_metrics_head(entry, path.string());
      continue;
    }
    if (entry.is_discarded() && in.peek() == std::ifstream::traits_type::eof()) break;  // the run was killed in a write
    try {
      add_line(table, entry);
    } catch (const json::exception&) {
      throw Error(ErrorCode::kInvalidArgument, str(path.string(), ":", number, ": not the metrics of a step"),
                  "remove the line, or the file");
    }
  }
  return table;
}

ordered_json curves_json(const MetricsTable& table, std::size_t most) {
  const std::vector<std::size_t> rows = picked_rows(table, most);
  ordered_json out{{"steps", table.step.size()}, {"shown", rows.size()}};
  out["step"] = ordered_json::array();
  for (const std::size_t row : rows) out["step"].push_back(table.step[row]);
  out["column"] = ordered_json::object();
  out["validation"] = {{"step", ordered_json::array()}, {"loss", ordered_json::array()}};
  for (const auto& [key, column] : table.column) {
    if (key == "val_loss") {
      out["validation"] = validation_json(table, column, most);
      continue;
    }
    ordered_json& values = out["column"][key] = ordered_json::array();
    for (const std::size_t row : rows)
      values.push_back(std::isnan(column[row]) ? ordered_json() : ordered_json(column[row]));
  }
  return out;
}

}  // namespace weft::tools
