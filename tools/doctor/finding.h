// tools/doctor/finding.h - one line of what weft doctor says, and lists of them from all machines of a job.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace weft::tools {

enum class Health : std::uint8_t { kOk, kWarn, kFail };
[[nodiscard]] std::string_view to_string(Health health) noexcept;

/// `what` was looked at and found so; `advice`, empty when all is well, is what to do about it.
struct Finding {
  Health health = Health::kOk;
  std::string what;   ///< "memory"
  std::string found;  ///< "62.8 GB, 58.1 GB of it free"
  std::string advice = {};
  std::string host = {};  ///< Empty: of the whole job.
};

class Findings {
 public:
  void ok(std::string what, std::string found) { list_.push_back({Health::kOk, std::move(what), std::move(found)}); }
  void warn(std::string what, std::string found, std::string advice) {
    list_.push_back({Health::kWarn, std::move(what), std::move(found), std::move(advice)});
  }
  void fail(std::string what, std::string found, std::string advice) {
    list_.push_back({Health::kFail, std::move(what), std::move(found), std::move(advice)});
  }
  void add(Finding finding) { list_.push_back(std::move(finding)); }
  [[nodiscard]] const std::vector<Finding>& list() const noexcept { return list_; }

 private:
  std::vector<Finding> list_;
};

/// Collective over `world`: the findings of all ranks, in rank order, on every rank. What several machines found alike
/// comes once, with their names joined.
[[nodiscard]] Findings gather_findings(comm::Communicator& world, const Findings& mine);

}  // namespace weft::tools
