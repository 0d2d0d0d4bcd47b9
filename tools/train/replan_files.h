// tools/train/replan_files.h - what a run folder keeps of looks for a faster plan (schedule.replan).
//
//   replans.jsonl                          one JSON object per look, as parallel::Replanner::log has them
//   costs.textproto                        the costs in force: what the last look of this start refitted
//   replans/step-00000020.costs.textproto  of each look that changed the plan: what it stood on,
//   replans/step-00000020.plan.textproto   and the plan that holds from the next step on
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "parallel/train/trainer.h"

namespace weft::tools {

/// Removes what an earlier start wrote of looks at `first_step` and later. costs.textproto too: a run starts with the
/// costs of its config. Throws Error{kIo}.
void start_replan_files(const std::filesystem::path& run_dir, std::int64_t first_step);

/// After a look of a run on `device` in `dtype`. Throws Error{kIo}.
void write_replan_files(const std::filesystem::path& run_dir, const parallel::Replan& replan, DeviceKind device,
                        DType dtype);

/// The looks of replans.jsonl; none without it. Throws Error{kInvalidArgument} naming file and line for one that lacks
/// step, action, reason, measured_ms or predicted_ms.
[[nodiscard]] std::vector<nlohmann::ordered_json> read_replans(const std::filesystem::path& run_dir);

}  // namespace weft::tools
