// tools/hf/model_folder.h - the tensors of a Hugging Face model folder, whether in one file or in many.
// Source: huggingface_hub's sharded safetensors: model.safetensors, or model.safetensors.index.json whose "weight_map"
// names the file of each tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/safetensors.h"

namespace weft::tools {

inline constexpr const char* kHfConfigFile = "config.json";
inline constexpr const char* kHfWeightsFile = "model.safetensors";
inline constexpr const char* kHfIndexFile = "model.safetensors.index.json";

class HfModelFolder {
 public:
  /// Opens and checks every file. Throws Error{kIo} naming what is wrong: no weights, a shard missing or damaged, an
  /// index that is no index or that disagrees with its shards (each such tensor is listed).
  explicit HfModelFolder(const std::filesystem::path& folder);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::size_t num_files() const noexcept { return readers_.size(); }
  [[nodiscard]] std::vector<std::string> names() const;                          ///< Of all tensors, sorted.
  [[nodiscard]] const TensorInfo* find(const std::string& name) const noexcept;  ///< nullptr: there is none.
  /// Elements [first, first + count) of a float tensor, as F32. Throws as SafetensorsReader::read, and
  /// Error{kInvalidArgument} when there is no such tensor.
  void read(const std::string& name, std::int64_t first, std::int64_t count, float* out) const;

 private:
  struct Place {
    const SafetensorsReader* reader;
    const TensorInfo* info;
  };
  void open_shards(const std::filesystem::path& index);
  void add_file(const std::string& file);

  std::filesystem::path path_;
  std::vector<std::unique_ptr<SafetensorsReader>> readers_;
  std::map<std::string, Place> places_;
};

/// `names` after `what`, one space between; the first dozen, then how many more. For messages.
[[nodiscard]] std::string list_names(const std::string& what, const std::vector<std::string>& names);

}  // namespace weft::tools
