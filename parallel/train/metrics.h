// parallel/train/metrics.h - metrics.jsonl: a schema line, then one JSON object per step. Every metrics.router_every
// steps the object has "expert_tokens", [MoE layers][E]: the choices (slots) that each expert took in, after drops,
// over all ranks and micro-batches of the step; MoE layers in order, dense ones left out. What else metrics.* asks for
// lies beside it: tb/ for TensorBoard, metrics.prom for Prometheus.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/train/event_file.h"

namespace weft::parallel {

inline constexpr int kMetricsSchema = 1;  ///< Of metrics.jsonl: grows when a key changes its meaning.

/// One line: keys in the order they were added. Numbers are written with 17 significant digits, so that they read back
/// as the same bits; what is not finite becomes null.
class MetricsLine {
 public:
  void add(const std::string& key, double value);
  void add(const std::string& key, std::int64_t value);
  void add(const std::string& key, int value) { add(key, static_cast<std::int64_t>(value)); }
  void add(const std::string& key, const std::string& text);
  void add(const std::string& key, const std::vector<std::vector<std::int64_t>>& table);  ///< A list of lists.
  [[nodiscard]] std::string json() const;
  [[nodiscard]] std::optional<double> number(std::string_view key) const;  ///< Nothing: no such key, or not finite.

 private:
  struct Entry {
    std::string key, text;
    std::optional<double> number;
  };
  std::vector<Entry> entries_;
};

struct RunConfig;
struct StepReport;
/// A step's figures: those of every run, of models with MoE layers, and what config.metrics asks for.
[[nodiscard]] MetricsLine step_line(const StepReport& report, const RunConfig& config);

/// Appends lines to a file, each with one write, so that a reader never sees half a line but at the very end of a
/// killed run.
class MetricsWriter {
 public:
  /// Keeps what `path` has of steps up to `last_step` (and a sound schema line), drops the rest; -1 starts a new file.
  /// A file of another schema is kept whole beside the new one, as metrics.schema-N.jsonl, and a line of the log says
  /// so. Throws Error{kIo}.
  MetricsWriter(const std::string& path, std::int64_t last_step);
  void write(const MetricsLine& line);

 private:
  struct Close {
    void operator()(std::FILE* file) const noexcept { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

/// All that a run writes of its steps: metrics.jsonl, and what config.metrics switches on.
class MetricsFiles {
 public:
  /// Files of `run_dir`, which exists, for a run that goes on after `last_step` (-1: starts afresh). `config` outlives
  /// this object. Throws Error{kIo}.
  MetricsFiles(const std::filesystem::path& run_dir, const RunConfig& config, std::int64_t last_step);
  MetricsFiles(const MetricsFiles&) = delete;
  MetricsFiles& operator=(const MetricsFiles&) = delete;
  ~MetricsFiles();  ///< Writes a metrics.prom that is due; a failure is logged.
  /// Throws Error{kIo}; metrics.jsonl is written first.
  void write(const StepReport& report, std::optional<double> validation_loss);

 private:
  void write_prometheus();

  std::filesystem::path run_dir_;
  const RunConfig& config_;
  MetricsWriter lines_;
  std::unique_ptr<EventFile> events_;  ///< Null: metrics.tensorboard is off.
  std::string prometheus_;             ///< Not written yet; empty: nothing.
  std::chrono::steady_clock::time_point prometheus_written_;
};

}  // namespace weft::parallel
