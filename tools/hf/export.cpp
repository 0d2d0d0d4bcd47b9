#include "tools/hf/export.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/atomic_file.h"
#include "core/error.h"
#include "tools/config/loader.h"
#include "tools/hf/hf_config.h"
#include "tools/hf/model_folder.h"
#include "tools/hf/names.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using parallel::Checkpoint;
using parallel::ParameterSpec;

struct WeightsFile {
  std::string name;
  std::vector<const ParameterSpec*> specs;
};

std::int64_t bytes_of(const ParameterSpec& spec) { return spec.count() * static_cast<std::int64_t>(sizeof(float)); }

std::string five_digits(std::size_t n) {
  const std::string digits = std::to_string(n);
  return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

// Fills files in order, each as far as it goes.
std::vector<WeightsFile> split(const std::vector<ParameterSpec>& specs, std::int64_t max_file_bytes) {
  std::vector<WeightsFile> files(1);
  std::int64_t bytes = 0;
  for (const ParameterSpec& spec : specs) {
    if (!files.back().specs.empty() && bytes + bytes_of(spec) > max_file_bytes) {
      files.emplace_back();
      bytes = 0;
    }
    files.back().specs.push_back(&spec);
    bytes += bytes_of(spec);
  }
  for (std::size_t i = 0; i < files.size(); ++i)
    files[i].name = files.size() == 1
                        ? kHfWeightsFile
                        : str("model-", five_digits(i + 1), "-of-", five_digits(files.size()), ".safetensors");
  return files;
}

void write_weights(const fs::path& path, const WeightsFile& file, const parallel::ModelConfig& model,
                   const Checkpoint& checkpoint) {
  std::vector<TensorInfo> infos;
  for (const ParameterSpec* spec : file.specs)
    infos.push_back({hf_slice(*spec, model).tensor, DType::kF32, spec->shape(), 0});
  SafetensorsWriter writer(path, infos, {{"format", "pt"}});  // transformers wants to be told
  std::vector<float> values;
  for (std::size_t i = 0; i < infos.size(); ++i) {
    const ParameterSpec& spec = *file.specs[i];
    values.resize(static_cast<std::size_t>(spec.count()));
    checkpoint.read("weight", spec.name, 0, spec.count(), values.data());
    writer.write(infos[i].name, values.data(), bytes_of(spec));
  }
  writer.finish();
}

std::string index_text(const std::vector<WeightsFile>& files, const parallel::ModelConfig& model,
                       std::int64_t total_bytes) {
  nlohmann::ordered_json index{{"metadata", {{"total_size", total_bytes}}},
                               {"weight_map", nlohmann::ordered_json::object()}};
  for (const WeightsFile& file : files)
    for (const ParameterSpec* spec : file.specs) index["weight_map"][hf_slice(*spec, model).tensor] = file.name;
  return index.dump(2) + "\n";
}

std::string generation_config(int end_of_text) {
  nlohmann::ordered_json json{{"_from_model_config", true}};
  if (end_of_text >= 0) json["bos_token_id"] = json["eos_token_id"] = end_of_text;
  return json.dump(2) + "\n";
}

// The index and the weights of an earlier export would be read along with the new ones.
void remove_old_weights(const fs::path& folder, const std::vector<WeightsFile>& files) {
  std::vector<fs::path> old;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool is_weights = name.starts_with("model") && name.ends_with(".safetensors");
    const bool is_new = std::ranges::any_of(files, [&](const WeightsFile& file) { return file.name == name; });
    if (name == kHfIndexFile ? files.size() == 1 : is_weights && !is_new) old.push_back(entry.path());
  }
  std::error_code ignored;
  for (const fs::path& path : old) fs::remove(path, ignored);
}

}  // namespace

HfExport export_hf(const Checkpoint& checkpoint, const fs::path& out, std::int64_t max_file_bytes) {
  WEFT_CHECK(max_file_bytes >= 1, "files of at most ", max_file_bytes, " bytes");
  const parallel::RunConfig config = parse_config(checkpoint.state().config_text, "the checkpoint's config");
  parallel::ModelConfig model = config.model;
  model.max_positions = std::max(model.max_positions, config.train.sequence_length);  // rotary positions have no end
  const std::string config_json = write_hf_config(model, config.data.end_of_text);
  checkpoint.check_model(model);
  checkpoint.verify();

  std::error_code error;
  fs::create_directories(out, error);
  if (error) throw Error(ErrorCode::kIo, str("cannot make the folder ", out.string(), ": ", error.message()));
  const std::vector<ParameterSpec> specs = parallel::global_parameters(model);
  const std::vector<WeightsFile> files = split(specs, max_file_bytes);
  HfExport result{static_cast<std::int64_t>(specs.size()), 0, files.size(), {}};
  if (model.moe.capacity_factor > 0.0)
    result.notes.push_back("model.moe.capacity_factor is not 0, but in transformers experts take all their tokens");
  for (const ParameterSpec& spec : specs) result.total_bytes += bytes_of(spec);
  for (const WeightsFile& file : files) write_weights(out / file.name, file, model, checkpoint);
  remove_old_weights(out, files);
  if (files.size() > 1) write_file(out / kHfIndexFile, index_text(files, model, result.total_bytes));
  write_file(out / "generation_config.json", generation_config(config.data.end_of_text));
  write_file(out / kHfConfigFile, config_json);
  return result;
}

}  // namespace weft::tools
