#include "tools/simulate/routing.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/error.h"
#include "scheduler/fit.h"
#include "tools/report/metrics_table.h"

namespace weft::tools {
namespace {

constexpr const char* kHint = "--routing takes the metrics.jsonl of a run with metrics.router_every > 0";

using Counts = std::vector<std::vector<double>>;  // [MoE layers][E]

Counts counts_of(const nlohmann::json& record, const std::string& where, std::size_t layers, int experts) {
  Counts counts;
  try {
    record.get_to(counts);
  } catch (const nlohmann::json::exception&) {
    throw Error(ErrorCode::kInvalidArgument, where + ": expert_tokens is not a list of lists of numbers", kHint);
  }
  if (counts.size() != layers)
    throw Error(ErrorCode::kInvalidArgument,
                str(where, ": counts of ", counts.size(), " MoE layers, the config has ", layers),
                "routing is that of a run of the same model");
  for (const auto& layer : counts) {
    if (layer.size() != static_cast<std::size_t>(experts))
      throw Error(ErrorCode::kInvalidArgument,
                  str(where, ": counts of ", layer.size(), " experts, the config has ", experts),
                  "routing is that of a run of the same model");
    if (std::any_of(layer.begin(), layer.end(), [](double count) { return count < 0.0; }))
      throw Error(ErrorCode::kInvalidArgument, where + ": a count of tokens is negative", kHint);
  }
  return counts;
}

/// counts: [E]. Rank r of `ranks` holds experts r * E / ranks to (r + 1) * E / ranks, as in parallel::Mesh.
double busiest_over_mean(const std::vector<double>& counts, int ranks) {
  const auto local = static_cast<std::ptrdiff_t>(counts.size()) / ranks;
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  double busiest = 0.0;
  for (auto at = counts.begin(); at != counts.end(); at += local)
    busiest = std::max(busiest, std::accumulate(at, at + local, 0.0));
  return total > 0.0 ? std::max(1.0, busiest * ranks / total) : 1.0;
}

}  // namespace

RankLoads worst_loads(const parallel::RunConfig& config) {
  const parallel::MoeConfig& moe = config.model.moe;
  const int ep = config.parallel.expert;
  const double to_one = std::min<double>(moe.top_k, static_cast<double>(moe.experts) / ep);
  double load = ep * to_one / moe.top_k;
  if (moe.capacity_factor > 0.0) load = std::min(load, std::max(1.0, moe.capacity_factor));
  RankLoads out;
  for (int l = 0; l < config.model.layers; ++l) out.by_layer.push_back(config.model.is_moe_layer(l) ? load : 1.0);
  return out;
}

RankLoads recorded_loads(const std::string& path, const parallel::RunConfig& config, double quantile) {
  std::ifstream file(path);
  if (!file) throw Error(ErrorCode::kIo, "cannot read " + path, kHint);
  std::vector<int> moe_layers;
  for (int l = 0; l < config.model.layers; ++l)
    if (config.model.is_moe_layer(l)) moe_layers.push_back(l);
  std::vector<std::vector<double>> loads(moe_layers.size());  // [MoE layers][steps]
  RankLoads out{std::vector<double>(static_cast<std::size_t>(config.model.layers), 1.0), 0};
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    const nlohmann::json step = nlohmann::json::parse(line, nullptr, false);
    if (number == 1 && step.is_object() && step.contains("schema")) check_metrics_head(step, path);
    if (!step.is_object() || !step.contains("expert_tokens")) continue;
    const Counts counts =
        counts_of(step["expert_tokens"], str(path, " line ", number), moe_layers.size(), config.model.moe.experts);
    for (std::size_t l = 0; l < counts.size(); ++l)
      loads[l].push_back(busiest_over_mean(counts[l], config.parallel.expert));
    ++out.steps;
  }
  if (out.steps == 0) throw Error(ErrorCode::kInvalidArgument, path + " has no expert_tokens", kHint);
  for (std::size_t l = 0; l < loads.size(); ++l)
    out.by_layer[static_cast<std::size_t>(moe_layers[l])] = scheduler::quantile(loads[l], quantile);
  return out;
}

}  // namespace weft::tools
