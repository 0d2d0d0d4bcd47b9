// tools/checkpoint/checkpoints.h - checkpoints as files: which there are, whether they are whole, how two differ.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "parallel/train/checkpoint.h"

namespace weft::tools {

struct CheckpointSummary {
  std::filesystem::path folder;
  std::string problem;  ///< Why it cannot be read; empty when it can. Then the rest holds.
  std::int64_t step = 0, samples = 0, tokens = 0;
  std::int64_t num_tensors = 0, num_elements = 0;  ///< Of the model.
  std::int64_t bytes = 0;                          ///< On disk.
  DType dtype = DType::kF32;
  bool has_optimizer = false;
};

/// The checkpoints that `path` stands for, newest first: itself, or those in it, or in its folder "checkpoints" (a run
/// folder). Throws Error{kIo} when there is no such folder or no checkpoint in it.
[[nodiscard]] std::vector<std::filesystem::path> find_checkpoints(const std::filesystem::path& path);

/// What the manifest of `folder` says; with `verify`, also whether every checksum holds. Never throws for a damaged
/// one.
[[nodiscard]] CheckpointSummary summarize(const std::filesystem::path& folder, bool verify);

/// One array of one tensor in two checkpoints.
struct TensorDifference {
  std::string array;  ///< "weight", "m" or "v".
  std::string name;
  std::string only;                ///< Why the values cannot be compared, e.g. "only in A"; empty when they were.
  std::int64_t num_different = 0;  ///< Elements that are not equal; NaN equals NaN.
  double max_abs = 0.0;            ///< Largest |a - b|; NaN when just one of the two is NaN somewhere.
  double max_relative = 0.0;       ///< max_abs over the largest |a|; 0 when all are equal.
  [[nodiscard]] bool equal() const { return only.empty() && num_different == 0; }
};

/// Every weight, and m and v where both have an optimizer, in the order of the names. Reads blocks: no whole tensor in
/// memory.
[[nodiscard]] std::vector<TensorDifference> compare(const parallel::Checkpoint& a, const parallel::Checkpoint& b);

}  // namespace weft::tools
