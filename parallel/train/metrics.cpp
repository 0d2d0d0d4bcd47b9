#include "parallel/train/metrics.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/error.h"
#include "parallel/train/trainer.h"

namespace weft::parallel {
namespace {

constexpr const char* kSchemaLine = "{\"schema\": 1, \"format\": \"weft.metrics\"}\n";

/// The lines of an earlier run that still hold: the schema and every step up to `last_step`.
std::string kept_lines(const std::string& path, std::int64_t last_step) {
  std::string kept = kSchemaLine;
  std::ifstream in(path);
  std::string line;
  while (last_step >= 0 && std::getline(in, line)) {
    const nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
    if (entry.is_object() && entry.contains("step") && entry["step"].is_number_integer() &&
        entry["step"].get<std::int64_t>() <= last_step)
      kept += line + "\n";
  }
  return kept;
}

}  // namespace

void MetricsLine::add(const std::string& key, double value) {
  char text[40] = "null";
  if (std::isfinite(value)) std::snprintf(text, sizeof text, "%.17g", value);
  entries_.emplace_back(key, text);
}

void MetricsLine::add(const std::string& key, std::int64_t value) { entries_.emplace_back(key, std::to_string(value)); }

void MetricsLine::add(const std::string& key, const std::string& text) {
  entries_.emplace_back(key, nlohmann::json(text).dump());
}

void MetricsLine::add(const std::string& key, const std::vector<std::vector<std::int64_t>>& table) {
  entries_.emplace_back(key, nlohmann::json(table).dump());
}

std::string MetricsLine::json() const {
  std::string out = "{";
  for (const auto& [key, value] : entries_) out += (out.size() > 1 ? ", \"" : "\"") + key + "\": " + value;
  return out + "}";
}

MetricsLine step_line(const StepReport& report, const RunConfig& config) {
  const StepResult& r = report.result;
  MetricsLine line;
  line.add("step", report.step);
  line.add("loss", r.loss);
  line.add("grad_norm", r.gradient_norm);
  line.add("lr", report.lr);
  line.add("tokens", report.tokens);
  line.add("step_ms", report.step_ms);
  line.add("tokens_per_second", report.tokens_per_second);
  line.add("model_tflops", report.model_tflops);
  line.add("predicted_ms", report.predicted_ms);
  line.add("exposed_comm_frac", report.exposed_comm_fraction);
  if (config.model.layer_pattern.find('M') != std::string::npos) {
    line.add("aux_loss", r.balance_loss);
    line.add("z_loss", r.z_loss);
    line.add("drop_frac", r.drop_fraction);
    line.add("max_vio", r.max_violation);
    line.add("rank_imbalance", r.rank_imbalance);
    line.add("dead_experts", r.dead_experts);
    const int every = config.metrics.router_every;
    if (every > 0 && report.step % every == 0) line.add("expert_tokens", expert_tokens(r));
  }
  return line;
}

MetricsWriter::MetricsWriter(const std::string& path, std::int64_t last_step) : path_(path) {
  write_file(path, kept_lines(path, last_step));
  file_.reset(std::fopen(path.c_str(), "ae"));
  if (!file_) throw Error(ErrorCode::kIo, str("cannot write ", path, ": ", std::strerror(errno)));
}

void MetricsWriter::write(const MetricsLine& line) {
  const std::string text = line.json() + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0)
    throw Error(ErrorCode::kIo, str("cannot write ", path_, ": ", std::strerror(errno)), "is the disk full?");
}

}  // namespace weft::parallel
