// tools/hf/import.h - a Hugging Face Mixtral folder as a Weft checkpoint.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "parallel/train/run_config.h"
#include "tools/hf/model_folder.h"
#include "tools/hf/names.h"

namespace weft::tools {

struct HfImport {
  parallel::RunConfig config;  ///< What the checkpoint stores: the model, and training defaults that fit it.
  HfLayout layout;
  std::size_t num_tensors = 0;  ///< Of the Hugging Face model.
  std::size_t num_files = 0;
  std::vector<std::string> notes;
};

/// Reads the model in `folder` (config.json; F32, BF16 or F64 weights in one file or many; experts one by one or fused)
/// and writes the checkpoint `out`: weights alone, as F32. The whole model is in memory for a while. Throws as
/// read_hf_config and HfModelFolder; Error{kInvalidArgument} naming every tensor that is left over, missing or of
/// another shape; and when the sizes of config.json make no model. What stands at `out` is replaced.
HfImport import_hf(const std::filesystem::path& folder, const std::filesystem::path& out);

}  // namespace weft::tools
