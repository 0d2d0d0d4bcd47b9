#include "parallel/train/metrics.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/log.h"
#include "parallel/train/figures.h"
#include "parallel/train/trainer.h"

namespace weft::parallel {
namespace {

std::string schema_line() { return str("{\"schema\": ", kMetricsSchema, ", \"format\": \"weft.metrics\"}\n"); }

/// The lines of an earlier run that still hold: the schema and every step up to `last_step`.
std::string kept_lines(const std::string& path, std::int64_t last_step) {
  std::string kept = schema_line();
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

/// Moves a file whose first line is not this version's schema out of the way: its keys may mean something else.
void set_aside_other_schema(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line) || line + "\n" == schema_line()) return;
  const nlohmann::json head = nlohmann::json::parse(line, nullptr, false);
  const bool numbered = head.is_object() && head.contains("schema") && head["schema"].is_number_integer();
  const std::string schema = numbered ? str("schema-", head["schema"].get<std::int64_t>()) : "no-schema";
  std::filesystem::path aside = path;
  aside.replace_extension(schema + ".jsonl");
  std::error_code error;
  for (int i = 2; std::filesystem::exists(aside, error); ++i) {
    aside = path;
    aside.replace_extension(str(schema, ".", i, ".jsonl"));
  }
  std::filesystem::rename(path, aside, error);
  if (error)
    throw Error(ErrorCode::kIo, str("cannot rename ", path.string(), " to ", aside.string(), ": ", error.message()));
  log()->warn("{} is of another version of Weft ({}, this one's is schema-{}): kept as {}, and begun anew",
              path.string(), schema, kMetricsSchema, aside.filename().string());
}

}  // namespace

void MetricsLine::add(const std::string& key, double value) {
  char text[40] = "null";
  if (std::isfinite(value)) std::snprintf(text, sizeof text, "%.17g", value);
  entries_.push_back({key, text, std::isfinite(value) ? std::optional(value) : std::nullopt});
}

void MetricsLine::add(const std::string& key, std::int64_t value) {
  entries_.push_back({key, std::to_string(value), static_cast<double>(value)});
}

void MetricsLine::add(const std::string& key, const std::string& text) {
  entries_.push_back({key, nlohmann::json(text).dump(), std::nullopt});
}

void MetricsLine::add(const std::string& key, const std::vector<std::vector<std::int64_t>>& table) {
  entries_.push_back({key, nlohmann::json(table).dump(), std::nullopt});
}

std::string MetricsLine::json() const {
  std::string out = "{";
  for (const Entry& e : entries_) out += (out.size() > 1 ? ", \"" : "\"") + e.key + "\": " + e.text;
  return out + "}";
}

std::optional<double> MetricsLine::number(std::string_view key) const {
  for (const Entry& e : entries_)
    if (e.key == key) return e.number;
  return std::nullopt;
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
  if (last_step >= 0) set_aside_other_schema(path);
  write_file(path, kept_lines(path, last_step));
  file_.reset(std::fopen(path.c_str(), "ae"));
  if (!file_) throw Error(ErrorCode::kIo, str("cannot write ", path, ": ", std::strerror(errno)));
}

void MetricsWriter::write(const MetricsLine& line) {
  const std::string text = line.json() + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0)
    throw Error(ErrorCode::kIo, str("cannot write ", path_, ": ", std::strerror(errno)), "is the disk full?");
}

MetricsFiles::MetricsFiles(const std::filesystem::path& run_dir, const RunConfig& config, std::int64_t last_step)
    : run_dir_(run_dir), config_(config), lines_((run_dir / "metrics.jsonl").string(), last_step) {
  if (config.metrics.tensorboard)
    events_ = std::make_unique<EventFile>(run_dir / "tb", std::max<std::int64_t>(1, last_step + 1));
}

MetricsFiles::~MetricsFiles() {
  try {
    write_prometheus();
  } catch (const std::exception& e) {
    log()->warn("the last metrics.prom is lost: {}", e.what());
  }
}

void MetricsFiles::write(const StepReport& report, std::optional<double> validation_loss) {
  MetricsLine line = step_line(report, config_);
  if (validation_loss) line.add("val_loss", *validation_loss);
  lines_.write(line);
  if (events_) events_->write(report.step, tensorboard_scalars(line, report.result));
  if (!config_.metrics.prometheus) return;
  constexpr std::chrono::seconds kScrape{1};  // nobody looks more often, and each write waits for the disk
  prometheus_ = prometheus_text(line, config_.name);
  if (std::chrono::steady_clock::now() - prometheus_written_ >= kScrape) write_prometheus();
}

void MetricsFiles::write_prometheus() {
  if (prometheus_.empty()) return;
  write_file(run_dir_ / "metrics.prom", prometheus_);
  prometheus_.clear();
  prometheus_written_ = std::chrono::steady_clock::now();
}

}  // namespace weft::parallel
