#include "tools/report/router_view.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>

namespace weft::tools {
namespace {

using nlohmann::ordered_json;
using Counts = std::vector<std::vector<std::int64_t>>;  // [layers][E]

Counts added_up(std::span<const RouterRecord> records) {
  Counts sum = records.front().tokens;
  for (const RouterRecord& record : records.subspan(1))
    for (std::size_t l = 0; l < sum.size(); ++l)
      for (std::size_t e = 0; e < sum[l].size(); ++e) sum[l][e] += record.tokens[l][e];
  return sum;
}

double mean_of(const std::vector<std::int64_t>& tokens) {
  return tokens.empty()
             ? 0.0
             : double(std::accumulate(tokens.begin(), tokens.end(), std::int64_t{0})) / double(tokens.size());
}

ordered_json layer_json(int layer, const std::vector<std::int64_t>& tokens) {
  const double mean = mean_of(tokens), sum = mean * double(tokens.size());
  double squares = 0.0, entropy = 0.0;
  for (const std::int64_t n : tokens) {
    squares += (double(n) - mean) * (double(n) - mean);
    if (n > 0) entropy -= double(n) / sum * std::log(double(n) / sum);
  }
  const auto busiest = std::max_element(tokens.begin(), tokens.end());
  ordered_json out{{"layer", layer}, {"tokens", tokens}, {"max_vio", nullptr}, {"entropy", nullptr}, {"cv", nullptr}};
  if (sum > 0.0) {
    out["max_vio"] = double(*busiest) / mean - 1.0;
    out["entropy"] = tokens.size() > 1 ? entropy / std::log(double(tokens.size())) : 1.0;
    out["cv"] = std::sqrt(squares / double(tokens.size())) / mean;
  }
  out["dead_experts"] = std::count(tokens.begin(), tokens.end(), 0);
  out["busiest_expert"] = busiest - tokens.begin();
  return out;
}

}  // namespace

ordered_json router_json(std::span<const RouterRecord> records, std::vector<int> layers, std::size_t most_cells) {
  if (records.empty() || records.front().tokens.empty()) return nullptr;
  const Counts all = added_up(records);
  if (layers.size() != all.size()) {
    layers.resize(all.size());
    std::iota(layers.begin(), layers.end(), 0);
  }
  std::size_t cells = 0;
  for (const auto& layer : all) cells += layer.size();
  const std::size_t columns = std::clamp<std::size_t>(most_cells / std::max<std::size_t>(1, cells), 1,
                                                      std::min<std::size_t>(records.size(), 60));
  ordered_json out{{"records", records.size()}, {"experts", all.front().size()}, {"step", ordered_json::array()}};
  for (std::size_t l = 0; l < all.size(); ++l) out["layers"].push_back(layer_json(layers[l], all[l]));
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t first = records.size() * c / columns, last = records.size() * (c + 1) / columns;
    out["step"].push_back(records[last - 1].step);
    ordered_json column = ordered_json::array();
    for (const auto& layer : added_up(records.subspan(first, last - first))) {
      ordered_json row = ordered_json::array();
      for (const std::int64_t n : layer)
        row.push_back(std::llround(1000.0 * double(n) / std::max(mean_of(layer), 1e-9)));
      column.push_back(std::move(row));
    }
    out["util"].push_back(std::move(column));
  }
  return out;
}

}  // namespace weft::tools
