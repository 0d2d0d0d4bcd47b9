// tools/hf/export.h - a Weft checkpoint as a Hugging Face Mixtral folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/train/checkpoint.h"

namespace weft::tools {

struct HfExport {
  std::int64_t num_tensors = 0;
  std::int64_t total_bytes = 0;    ///< Of the weights.
  std::size_t num_files = 0;       ///< Of weights.
  std::vector<std::string> notes;  ///< Where the model will behave otherwise than in Weft.
};

/// Writes config.json, generation_config.json and the weights as F32, one tensor per expert and matrix, in the order of
/// the model: model.safetensors, or, when that would be longer than `max_file_bytes`, model-00001-of-0000N.safetensors
/// and an index (a file holds at least one tensor). `out` is made if it is not there. One tensor is in memory at a
/// time; checksums are checked first. Throws as write_hf_config; Error{kInvalidArgument} for a checkpoint whose tensors
/// are not those of its config; Error{kIo}.
HfExport export_hf(const parallel::Checkpoint& checkpoint, const std::filesystem::path& out,
                   std::int64_t max_file_bytes);

}  // namespace weft::tools
