#include "tools/hf/model_folder.h"

#include <nlohmann/json.hpp>
#include <set>

#include "core/atomic_file.h"
#include "core/error.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::int64_t kMaxIndexBytes = std::int64_t{1} << 28;

[[noreturn]] void damaged(const fs::path& file, const std::string& what) {
  throw Error(ErrorCode::kIo, str(file.string(), ": ", what), "download the folder again, all files of it");
}

// {tensor: file} of an index.
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  try {
    auto map = Json::parse(read_file(index, kMaxIndexBytes)).at("weight_map").get<std::map<std::string, std::string>>();
    for (const auto& [name, file] : map)
      if (file.empty() || fs::path(file).filename() != file || file == "..")
        damaged(index, str("\"", file, "\" is no name of a file in this folder"));
    return map;
  } catch (const Json::exception& e) {
    damaged(index, str("it is no index of safetensors files: ", e.what()));
  }
}

}  // namespace

HfModelFolder::HfModelFolder(const fs::path& folder) : path_(folder) {
  if (!fs::is_directory(folder))
    throw Error(ErrorCode::kIo, str("there is no folder ", folder.string()),
                "give the folder of a downloaded model: config.json and model*.safetensors");
  if (fs::exists(folder / kHfIndexFile)) {
    open_shards(folder / kHfIndexFile);
  } else if (fs::exists(folder / kHfWeightsFile)) {
    add_file(kHfWeightsFile);
  } else {
    throw Error(ErrorCode::kIo, str(folder.string(), " has neither ", kHfWeightsFile, " nor ", kHfIndexFile),
                "weights in other formats: load and save them once with transformers' save_pretrained()");
  }
}

void HfModelFolder::open_shards(const fs::path& index) {
  const std::map<std::string, std::string> weight_map = read_weight_map(index);
  std::set<std::string> files;
  for (const auto& [name, file] : weight_map) files.insert(file);
  for (const std::string& file : files) add_file(file);
  std::vector<std::string> missing, unlisted;
  for (const auto& [name, file] : weight_map) {
    const auto place = places_.find(name);
    if (place == places_.end() || place->second.reader->path().filename() != file) missing.push_back(name);
  }
  for (const auto& [name, place] : places_)
    if (!weight_map.contains(name)) unlisted.push_back(name);
  const std::string problems =
      list_names("not in the file that it names:", missing) + list_names("in the files, but not in it:", unlisted);
  if (!problems.empty()) damaged(index, problems);
}

void HfModelFolder::add_file(const std::string& file) {
  readers_.push_back(std::make_unique<SafetensorsReader>(path_ / file));
  for (const TensorInfo& info : readers_.back()->tensors())
    if (!places_.insert({info.name, {readers_.back().get(), &info}}).second)
      damaged(path_ / file, str("tensor ", info.name, " stands in another file too"));
}

std::vector<std::string> HfModelFolder::names() const {
  std::vector<std::string> out;
  for (const auto& [name, place] : places_) out.push_back(name);
  return out;
}

const TensorInfo* HfModelFolder::find(const std::string& name) const noexcept {
  const auto place = places_.find(name);
  return place == places_.end() ? nullptr : place->second.info;
}

void HfModelFolder::read(const std::string& name, std::int64_t first, std::int64_t count, float* out) const {
  const auto place = places_.find(name);
  WEFT_CHECK(place != places_.end(), path_.string(), " has no tensor \"", name, "\"");
  place->second.reader->read(*place->second.info, first, count, out);
}

std::string list_names(const std::string& what, const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 12;
  if (names.empty()) return {};
  std::string out = "\n  " + what;
  for (std::size_t i = 0; i < std::min(kMost, names.size()); ++i) out += (i == 0 ? " " : ", ") + names[i];
  return names.size() <= kMost ? out : out + str(", and ", names.size() - kMost, " more");
}

}  // namespace weft::tools
