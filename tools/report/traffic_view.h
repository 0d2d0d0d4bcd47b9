// tools/report/traffic_view.h - bytes from rank to rank, small enough to draw.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace weft::tools {

/// traffic.json (tools/train/environment.h) with "group_ranks": neighbours that were added up into one row and column
/// of "sent_bytes", so that it has at most `most` of them; 1: none were. "node_of_rank" becomes the number of "nodes".
/// Throws Error{kInvalidArgument}, with `origin`, for another document.
[[nodiscard]] nlohmann::ordered_json traffic_json(const nlohmann::ordered_json& traffic, const std::string& origin,
                                                  int most = 48);

}  // namespace weft::tools
