#include "tools/hf/import.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "core/atomic_file.h"
#include "core/error.h"
#include "parallel/train/checkpoint.h"
#include "tools/config/loader.h"
#include "tools/hf/hf_config.h"

namespace weft::tools {
namespace {

namespace fs = std::filesystem;
using parallel::ModelConfig;
using parallel::ParameterSpec;

constexpr std::int64_t kMaxConfigBytes = 1 << 20;
constexpr int kDefaultSequenceLength = 1024;  // of weft eval on an imported model, where its positions reach that far
constexpr const char* kTiedHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";

parallel::RunConfig run_config(const ModelConfig& model) {
  parallel::RunConfig config;
  config.name = "imported";
  config.model = model;
  config.train.sequence_length = std::min(model.max_positions, kDefaultSequenceLength);
  return config;
}

HfLayout find_layout(const HfModelFolder& folder) {
  HfLayout layout;
  const std::string first_layer = "model.layers.0.";
  if (folder.find(first_layer + "mlp.gate.weight") != nullptr) layout.moe = "mlp";
  layout.fused = folder.find(first_layer + layout.moe + ".experts.gate_up_proj") != nullptr;
  return layout;
}

// A config of absurd size must not be enumerated: each layer and each expert has at least one element somewhere.
void check_plausible(const ModelConfig& model, const HfModelFolder& folder) {
  const std::vector<std::string> names = folder.names();
  double elements = 0.0;
  for (const std::string& name : names) elements += static_cast<double>(folder.find(name)->num_elements());
  if (static_cast<double>(model.layers) > static_cast<double>(names.size()) ||
      static_cast<double>(model.layers) * model.moe.experts > elements)
    throw Error(ErrorCode::kInvalidArgument,
                str(folder.path().string(), ": config.json says ", model.layers, " layers of ", model.moe.experts,
                    " experts, but the weights are only ", names.size(), " tensors of ", elements, " elements in all"),
                "config.json and the weights are of different models");
}

// A file may repeat the embedding as the head that is tied to it.
bool repeats_embedding(const HfModelFolder& folder) {
  const TensorInfo *head = folder.find(kTiedHead), *embedding = folder.find(kEmbedding);
  if (head == nullptr || embedding == nullptr || head->shape != embedding->shape) return false;
  std::vector<float> a(static_cast<std::size_t>(head->num_elements())), b(a.size());
  folder.read(kTiedHead, 0, head->num_elements(), a.data());
  folder.read(kEmbedding, 0, head->num_elements(), b.data());
  return a == b;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) out += str(i == 0 ? "" : ", ", shape[i]);
  return out + "]";
}

// Every tensor of the folder stands for something in the model, and the other way round.
void check_tensors(const std::vector<HfSlice>& slices, const ModelConfig& model, const HfModelFolder& folder) {
  std::vector<std::string> missing, misshapen, not_floats, left_over;
  std::set<std::string> seen;
  for (const HfSlice& slice : slices) {
    if (!seen.insert(slice.tensor).second) continue;
    const TensorInfo* info = folder.find(slice.tensor);
    if (info == nullptr)
      missing.push_back(slice.tensor);
    else if (info->shape != slice.shape)
      misshapen.push_back(str(slice.tensor, " ", shape_text(info->shape), " instead of ", shape_text(slice.shape)));
    else if (info->dtype != DType::kF32 && info->dtype != DType::kF64 && info->dtype != DType::kBF16)
      not_floats.push_back(str(slice.tensor, " ", to_string(info->dtype)));
  }
  if (model.tie_embeddings && repeats_embedding(folder)) seen.insert(kTiedHead);
  for (const std::string& name : folder.names())
    if (!seen.contains(name)) left_over.push_back(name);
  const std::string problems = list_names("missing:", missing) + list_names("of another shape:", misshapen) +
                               list_names("not of floats:", not_floats) + list_names("left over:", left_over);
  if (!problems.empty())
    throw Error(
        ErrorCode::kInvalidArgument,
        str(folder.path().string(), ": the tensors are not those of the Mixtral model in config.json:", problems),
        "nothing was imported; config.json and the weights must be of one model");
}

}  // namespace

HfImport import_hf(const fs::path& folder, const fs::path& out) {
  const HfModelFolder files(folder);
  const fs::path config_path = folder / kHfConfigFile;
  HfModel read = read_hf_config(read_file(config_path, kMaxConfigBytes), config_path.string());
  HfImport result{run_config(read.model), find_layout(files), files.names().size(), files.num_files(),
                  std::move(read.notes)};
  require_valid(result.config, 1);
  const ModelConfig& model = result.config.model;
  check_plausible(model, files);

  const std::vector<ParameterSpec> specs = parallel::global_parameters(model);
  std::vector<HfSlice> slices;
  for (const ParameterSpec& spec : specs) slices.push_back(hf_slice(spec, model, result.layout));
  check_tensors(slices, model, files);
  std::map<std::string, std::vector<float>> tensors;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    std::vector<float>& values = tensors[specs[i].name];
    values.resize(static_cast<std::size_t>(specs[i].count()));
    files.read(slices[i].tensor, slices[i].first, specs[i].count(), values.data());
  }
  parallel::save_weights(out, model, tensors, to_text(result.config));
  return result;
}

}  // namespace weft::tools
