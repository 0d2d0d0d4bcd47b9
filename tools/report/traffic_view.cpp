#include "tools/report/traffic_view.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/error.h"

namespace weft::tools {

using nlohmann::ordered_json;

ordered_json traffic_json(const ordered_json& traffic, const std::string& origin, int most) {
  try {
    const auto sent = traffic.at("sent_bytes").get<std::vector<std::vector<std::int64_t>>>();
    const auto nodes = traffic.at("node_of_rank").get<std::vector<int>>();
    const auto group_ranks = (sent.size() + static_cast<std::size_t>(most) - 1) / static_cast<std::size_t>(most);
    if (sent.empty() || nodes.size() != sent.size()) throw Error(ErrorCode::kInvalidArgument, "ranks are missing");
    const std::size_t groups = (sent.size() + group_ranks - 1) / group_ranks;
    std::vector<std::vector<std::int64_t>> sums(groups, std::vector<std::int64_t>(groups, 0));
    for (std::size_t src = 0; src < sent.size(); ++src)
      for (std::size_t dst = 0; dst < sent.size(); ++dst)
        sums[src / group_ranks][dst / group_ranks] += sent[src].at(dst);
    return {{"ranks", sent.size()},
            {"nodes", *std::max_element(nodes.begin(), nodes.end()) + 1},
            {"steps", traffic.at("steps")},
            {"group_ranks", group_ranks},
            {"sent_bytes", sums},
            {"intra_bytes", traffic.at("intra_bytes")},
            {"inter_bytes", traffic.at("inter_bytes")},
            {"by_collective", traffic.at("by_collective")}};
  } catch (const std::exception& e) {
    throw Error(ErrorCode::kInvalidArgument, str(origin, " is not what weft train writes: ", e.what()),
                "remove it, or let the run write it again");
  }
}

}  // namespace weft::tools
