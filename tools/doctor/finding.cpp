#include "tools/doctor/finding.h"

#include <algorithm>

namespace weft::tools {
namespace {

nlohmann::json to_json(const Findings& findings) {
  nlohmann::json out = nlohmann::json::array();
  for (const Finding& f : findings.list())
    out.push_back({static_cast<int>(f.health), f.what, f.found, f.advice, f.host});
  return out;
}

/// The texts of all ranks, in rank order.
std::vector<std::string> gather_texts(comm::Communicator& world, const std::string& mine) {
  const auto stream = make_inline_stream();
  const auto length = static_cast<std::int64_t>(mine.size());
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(world.size()));
  comm::all_gather(world, comm::as_buffer(&length, 1), comm::as_buffer(lengths.data(), world.size()), *stream);
  std::int64_t total = 0;
  for (const std::int64_t n : lengths) total += n;
  std::string all(static_cast<std::size_t>(total), '\0');
  world.all_gather_v({mine.data(), length, DType::kU8}, {all.data(), total, DType::kU8}, lengths, *stream);
  std::vector<std::string> texts;
  std::size_t first = 0;
  for (const std::int64_t n : lengths) {
    texts.push_back(all.substr(first, static_cast<std::size_t>(n)));
    first += static_cast<std::size_t>(n);
  }
  return texts;
}

}  // namespace

std::string_view to_string(Health health) noexcept {
  return health == Health::kOk ? "ok" : health == Health::kWarn ? "warn" : "fail";
}

Findings gather_findings(comm::Communicator& world, const Findings& mine) {
  std::vector<Finding> all;
  for (const std::string& text : gather_texts(world, to_json(mine).dump())) {
    for (const auto& f : nlohmann::json::parse(text)) {
      Finding finding{static_cast<Health>(f[0].get<int>()), f[1], f[2], f[3], f[4]};
      const auto alike = std::find_if(all.begin(), all.end(), [&](const Finding& other) {
        return other.health == finding.health && other.what == finding.what && other.found == finding.found &&
               other.advice == finding.advice;
      });
      if (alike == all.end())
        all.push_back(std::move(finding));
      else if (alike->host != finding.host)
        alike->host += ", " + finding.host;
    }
  }
  Findings out;
  for (Finding& finding : all) out.add(std::move(finding));
  return out;
}

}  // namespace weft::tools
