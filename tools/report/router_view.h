// tools/report/router_view.h - what the router did with the tokens, from records over a run.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <vector>

#include "tools/report/metrics_table.h"

namespace weft::tools {

/// With n_i choices of expert i of E in all records and m their mean:
///   {"records", "experts", "step": [C], "layers": [{"layer", "tokens": [E], "max_vio": max n_i / m - 1,
///    "entropy": -sum p ln p / ln E, "cv": standard deviation over m, "dead_experts", "busiest_expert"}],
///    "util": [C][layers][E], n_i / m of each column in thousandths}
/// A column is a record, or, where there are many, consecutive ones added up; "step" is its last. layers: the places in
/// the model of the MoE layers; where their number is not that of the records, they are numbered from 0.
[[nodiscard]] nlohmann::ordered_json router_json(std::span<const RouterRecord> records, std::vector<int> layers,
                                                 std::size_t most_cells = 100000);

}  // namespace weft::tools
