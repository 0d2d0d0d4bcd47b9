#include "tools/eval/evaluate.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "comm/factory.h"
#include "core/error.h"
#include "core/safetensors.h"
#include "parallel/eval/evaluator.h"
#include "parallel/train/run_device.h"
#include "parallel/train/run_setup.h"
#include "tools/config/loader.h"
#include "tools/hf/names.h"

namespace weft::tools {
namespace {

using parallel::Batch;
using parallel::ModelConfig;
using parallel::RunConfig;
using parallel::TokenDataset;

template <class T>
std::int64_t bytes_of(const std::vector<T>& values) {
  return static_cast<std::int64_t>(values.size() * sizeof(T));
}

/// The routing of all passes, layer after layer: it is written when it is complete.
template <class T>
class RoutingTable {
 public:
  void add(const typename parallel::Evaluator<T>::Outputs& out) {
    expert_.resize(out.expert.size());
    weight_.resize(out.expert.size());
    for (std::size_t layer = 0; layer < out.expert.size(); ++layer) {
      expert_[layer].insert(expert_[layer].end(), out.expert[layer].begin(), out.expert[layer].end());
      weight_[layer].insert(weight_[layer].end(), out.expert_weight[layer].begin(), out.expert_weight[layer].end());
    }
  }
  void write(const std::string& path, const std::vector<std::int64_t>& shape) const {
    std::vector<TensorInfo> infos;
    for (std::size_t layer = 0; layer < expert_.size(); ++layer) {
      if (expert_[layer].empty()) continue;  // a dense layer
      infos.push_back({str("layers.", layer, ".expert"), DType::kI32, shape, 0});
      infos.push_back({str("layers.", layer, ".weight"), dtype_of<Wide<T>>, shape, 0});
    }
    SafetensorsWriter writer(path, infos);
    for (std::size_t layer = 0; layer < expert_.size(); ++layer) {
      if (expert_[layer].empty()) continue;
      writer.write(str("layers.", layer, ".expert"), expert_[layer].data(), bytes_of(expert_[layer]));
      writer.write(str("layers.", layer, ".weight"), weight_[layer].data(), bytes_of(weight_[layer]));
    }
    writer.finish();
  }

 private:
  std::vector<std::vector<std::int32_t>> expert_;
  std::vector<std::vector<Wide<T>>> weight_;
};

template <class T>
void write_gradients(const std::string& path, const ModelConfig& model,
                     const std::map<std::string, std::vector<T>>& gradients) {
  const bool has_hf_form =
      model.family == parallel::ModelFamily::kMixtral && model.layer_pattern.find('D') == std::string::npos;
  const std::vector<parallel::ParameterSpec> specs = parallel::global_parameters(model);
  std::vector<TensorInfo> infos;
  for (const parallel::ParameterSpec& spec : specs)
    infos.push_back({has_hf_form ? hf_slice(spec, model).tensor : spec.name, dtype_of<T>, spec.shape(), 0});
  SafetensorsWriter writer(path, infos, {{"format", "pt"}});
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const std::vector<T>& values = gradients.at(specs[i].name);
    writer.write(infos[i].name, values.data(), bytes_of(values));
  }
  writer.finish();
}

/// Tokens of `path` in sequences of the config's length, or in one shorter one.
TokenDataset open_tokens(RunConfig& config, const std::string& path) {
  const std::int64_t num_tokens = open_token_shard(path)->num_tokens();
  if (num_tokens < 2)
    throw Error(ErrorCode::kInvalidArgument, str(path, ": ", num_tokens, " tokens, one sequence needs 2"),
                "give more tokens");
  config.train.sequence_length = static_cast<int>(std::min<std::int64_t>(config.train.sequence_length, num_tokens - 1));
  return TokenDataset(dataset_options(config, {path}));
}

std::int64_t count_sequences(const RunConfig& config, const TokenDataset& data, std::int64_t wanted) {
  const std::int64_t group = config.model.moe.group_sequences, available = data.num_samples();
  const std::int64_t count = wanted > 0 ? wanted : available / group * group;
  if (count > available)
    throw Error(
        ErrorCode::kInvalidArgument,
        str("--sequences ", wanted, ": the file has ", available, " of ", config.train.sequence_length, " tokens"),
        "ask for fewer or shorter ones");
  if (count == 0 || count % group != 0)
    throw Error(ErrorCode::kInvalidArgument,
                str(wanted > 0 ? wanted : available, " sequences are no multiple of the ", group,
                    " of a routing group (model.moe.group_sequences)"),
                "change --sequences");
  return count;
}

template <class T>
EvalReport evaluate_as(const RunConfig& config, const parallel::Checkpoint& checkpoint, const EvalRequest& request,
                       const TokenDataset& data) {
  const ModelConfig& model = config.model;
  EvalReport report;
  report.dtype = dtype_of<T>;
  report.sequence_length = config.train.sequence_length;
  const std::int64_t count = report.num_sequences = count_sequences(config, data, request.sequences);
  const typename parallel::Evaluator<T>::Wanted wanted{!request.logits.empty(), !request.routing.empty(),
                                                       !request.gradients.empty()};
  std::unique_ptr<SafetensorsWriter> logits;
  if (wanted.logits)
    logits = std::make_unique<SafetensorsWriter>(
        request.logits,
        std::vector<TensorInfo>{{"logits", dtype_of<T>, {count, report.sequence_length, model.vocab_size}, 0}});
  RoutingTable<T> routing;
  double loss_sum = 0.0;
  comm::run_local_ranks(1, [&](comm::Communicator& world) {
    report.device = run_device(config, world);
    parallel::Evaluator<T> evaluator(model, checkpoint, world, report.device);
    const std::int64_t at_once = wanted.gradients ? count : std::min<std::int64_t>(config.train.micro_batch, count);
    const parallel::ValidationLayout layout{count, at_once, 1, 0};
    for (std::int64_t round = 0; round < layout.num_rounds(); ++round) {
      const Batch batch = validation_batch(data, layout, round, attend_mode(config));
      const auto out = evaluator.run(batch, wanted);
      loss_sum += out.loss * static_cast<double>(out.num_targets);
      report.num_targets += out.num_targets;
      if (wanted.logits) logits->write("logits", out.logits.data(), bytes_of(out.logits));
      if (wanted.routing) routing.add(out);
      if (wanted.gradients) write_gradients<Wide<T>>(request.gradients, model, out.gradients);
    }
  });
  if (wanted.logits) logits->finish();
  if (wanted.routing) routing.write(request.routing, {count, report.sequence_length, model.moe.top_k});
  report.loss = loss_sum / static_cast<double>(std::max<std::int64_t>(1, report.num_targets));
  return report;
}

}  // namespace

EvalReport evaluate(const RunConfig& config, const parallel::Checkpoint& checkpoint, const EvalRequest& request) {
  RunConfig here = config;  // the run's layout is not that of the evaluation
  here.parallel = {};
  here.parallel.device = config.parallel.device;
  here.train.global_batch = here.train.micro_batch;
  require_valid(here, 1);
  const TokenDataset data = open_tokens(here, request.tokens);
  if (here.train.dtype == DType::kF64) return evaluate_as<double>(here, checkpoint, request, data);
  if (here.train.dtype == DType::kBF16) return evaluate_as<BF16>(here, checkpoint, request, data);
  return evaluate_as<float>(here, checkpoint, request, data);
}

}  // namespace weft::tools
