#include "tools/train/replan_files.h"

#include <cstdio>
#include <optional>
#include <sstream>
#include <string>
#include <utility>

#include "core/atomic_file.h"
#include "core/error.h"
#include "tools/build_info.h"
#include "tools/config/schedule_files.h"
#include "tools/train/environment.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

fs::path log_of(const fs::path& run_dir) { return run_dir / "replans.jsonl"; }

/// Nothing for a line that is no look.
std::optional<ordered_json> parse_look(const std::string& line) {
  try {
    ordered_json look = ordered_json::parse(line);
    static_cast<void>(look.at("step").get<std::int64_t>());
    static_cast<void>(look.at("action").get<std::string>());
    static_cast<void>(look.at("reason").get<std::string>());
    static_cast<void>(look.at("measured_ms").get<double>());
    for (const char* when : {"before", "after"}) static_cast<void>(look.at("predicted_ms").at(when).get<double>());
    return std::optional<ordered_json>(std::in_place, std::move(look));  // a json converts to anything
  } catch (const ordered_json::exception&) {
    return std::nullopt;
  }
}

/// "step-00000020".
std::string step_name(std::int64_t step) {
  char text[32];
  std::snprintf(text, sizeof text, "step-%08lld", static_cast<long long>(step));
  return text;
}

/// The costs as a file that plans the next run, too. What a profile says of its ranks holds for a refitted one; nominal
/// costs stay nominal where no task was measured.
std::string costs_text(const parallel::Replan& replan, DeviceKind device, DType dtype) {
  std::optional<Measurement> measured;
  if (replan.cost.measured) {
    measured.emplace();
    measured->version = build_info().version;
    measured->date = now_utc();
    measured->ranks = replan.plan.mesh.world_size;
    measured->ranks_per_node = replan.plan.mesh.ranks_per_node;
    measured->device = device;
    measured->dtype = dtype;
  }
  return costs_to_text(replan.cost, {}, measured);
}

}  // namespace

void start_replan_files(const fs::path& run_dir, std::int64_t first_step) {
  std::error_code none;  // what is not there need not go
  fs::remove(run_dir / "costs.textproto", none);
  for (const fs::directory_entry& file : fs::directory_iterator(run_dir / "replans", none))
    if (file.path().filename().string() >= step_name(first_step)) fs::remove(file.path(), none);
  fs::remove(run_dir / "replans", none);  // when it is empty
  if (!fs::exists(log_of(run_dir))) return;
  std::istringstream lines(read_file(log_of(run_dir)));
  std::string kept;
  for (std::string line; std::getline(lines, line);)
    if (const auto look = parse_look(line); look && (*look)["step"].get<std::int64_t>() < first_step)
      kept += line + "\n";
  if (kept.empty())
    fs::remove(log_of(run_dir), none);
  else
    write_file(log_of(run_dir), kept);
}

void write_replan_files(const fs::path& run_dir, const parallel::Replan& replan, DeviceKind device, DType dtype) {
  const std::string costs = costs_text(replan, device, dtype);
  write_file(run_dir / "costs.textproto", costs);
  if (replan.changes) {
    const std::string plan = plan_to_text(replan.plan.plan), name = step_name(replan.step);
    std::error_code error;
    fs::create_directories(run_dir / "replans", error);
    if (error) throw Error(ErrorCode::kIo, str("cannot make ", (run_dir / "replans").string(), ": ", error.message()));
    write_file(run_dir / "replans" / (name + ".costs.textproto"), costs);
    write_file(run_dir / "replans" / (name + ".plan.textproto"), plan);
    write_file(run_dir / "plan.textproto", plan);
  }
  const std::string before = fs::exists(log_of(run_dir)) ? read_file(log_of(run_dir)) : "";
  write_file(log_of(run_dir), before + replan.entry + "\n");
}

std::vector<ordered_json> read_replans(const fs::path& run_dir) {
  std::vector<ordered_json> out;
  if (!fs::exists(log_of(run_dir))) return out;
  std::istringstream lines(read_file(log_of(run_dir)));
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::optional<ordered_json> look = parse_look(line);
    if (!look)
      throw Error(ErrorCode::kInvalidArgument,
                  str(log_of(run_dir).string(), ":", number, ": not a look for a faster plan, as weft train writes it"),
                  "remove the line, or the file");
    out.push_back(std::move(*look));
  }
  return out;
}

}  // namespace weft::tools
