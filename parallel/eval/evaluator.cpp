#include "parallel/eval/evaluator.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/host_access.h"
#include "core/rng.h"
#include "parallel/moe/gate_registry.h"
#include "scheduler/order.h"

namespace weft::parallel {

template <class T>
Evaluator<T>::Evaluator(const ModelConfig& model, const Checkpoint& checkpoint, comm::Communicator& world,
                        Device device)
    : model_(model),
      device_(device),
      mesh_(make_mesh(1, 0, {})),
      comms_(world, mesh_, device),
      table_(model, mesh_),
      store_(table_, device, false) {
  WEFT_CHECK(world.size() == 1, "evaluation runs on one rank, not ", world.size());
  checkpoint.check_model(model);
  checkpoint.verify();
  load_checkpoint(checkpoint, store_, false);
}

template <class T>
auto Evaluator<T>::make_pass(const ModelConfig& model, std::int64_t sequences, std::int64_t length, StepMode mode,
                             Capture<T>* capture) -> std::unique_ptr<Pass> {
  auto pass = std::make_unique<Pass>();
  StepSpec spec{
      model, mesh_, {1, static_cast<int>(sequences), static_cast<int>(length), model.moe.group_sequences}, mode, false};
  spec.host_apart = device_.kind != DeviceKind::kCpu;
  const scheduler::Shape shape = uniform_shape(model.layers, {});
  const scheduler::Graph graph = emit_step(spec, shape, dtype_of<T>);
  pass->length = length;
  pass->state.previous_choices.assign(static_cast<std::size_t>(model.layers),
                                      std::vector<double>(static_cast<std::size_t>(model.moe.experts), 0.0));
  pass->state.num_tokens = static_cast<double>(sequences * length);
  pass->state.num_groups = static_cast<double>(sequences) / model.moe.group_sequences;
  pass->step = std::make_unique<BoundStep<T>>(spec, scheduler::sequential_plan(graph, shape),
                                              Runtime<T>{&store_, &comms_, &pass->state, capture}, device_);
  return pass;
}

template <class T>
auto Evaluator<T>::run(const Batch& batch, const Wanted& wanted) -> Outputs {
  WEFT_CHECK(batch.num_sequences % model_.moe.group_sequences == 0, batch.num_sequences,
             " sequences are no multiple of the ", model_.moe.group_sequences, " of a routing group");
  const std::int64_t rows = batch.num_tokens(), vocab = model_.vocab_size, k = model_.moe.top_k;
  Outputs out;
  out.num_targets = count_valid_targets(batch.targets);
  Capture<T> capture;
  if (wanted.logits) {
    out.logits.resize(static_cast<std::size_t>(rows * vocab));
    capture.logits = {out.logits.data(), rows, vocab};
  }
  if (wanted.routing && gate_needs(model_).form != RoutingForm::kTokenList)
    throw Error(ErrorCode::kInvalidArgument,
                str("gate ", model_.moe.gate, " has no list of each token's experts to show"),
                "ask for the loss, logits or gradients instead");
  if (wanted.routing)
    for (int layer = 0; layer < model_.layers; ++layer) {
      const auto n = static_cast<std::size_t>(model_.is_moe_layer(layer) ? rows * k : 0);
      out.expert.emplace_back(n);
      out.expert_weight.emplace_back(n);
      capture.expert.emplace_back(out.expert.back().data(), rows, k);
      capture.expert_weight.emplace_back(out.expert_weight.back().data(), rows, k);
    }
  const StepMode mode = wanted.gradients ? StepMode::kGradients : StepMode::kEvaluate;
  const auto pass = make_pass(model_, batch.num_sequences, batch.sequence_length, mode, &capture);
  pass->state.num_valid_tokens = static_cast<double>(std::max<std::int64_t>(1, out.num_targets));
  pass->state.batches = {{batch.tokens.data(), batch.targets.data(), batch.positions.data(), batch.segments.data()}};
  pass->step->run();
  out.loss = pass->state.statistics.loss_sum_on_host(0) / pass->state.num_valid_tokens;
  HostAccess access(device_);
  if (wanted.gradients)
    for (const LocalParameter& p : table_.parameters()) {
      const Wide<T>* g = access.read(store_.gradients() + p.offset, p.count());
      out.gradients[p.spec.name].assign(g, g + p.count());
    }
  return out;
}

template <class T>
std::vector<T> Evaluator<T>::next_logits(std::span<const std::int32_t> tokens) {
  WEFT_CHECK(!tokens.empty(), "no token to go on from");
  if (gate_needs(model_).later_tokens)
    throw Error(ErrorCode::kInvalidArgument,
                str("gate ", model_.moe.gate, " looks at later tokens, which a text to go on from lacks"),
                "generate with a model whose gate chooses experts for each token by itself");
  const auto count = static_cast<std::int64_t>(tokens.size());
  const std::int64_t vocab = model_.vocab_size;
  if (!generation_ || generation_->length < count) {
    ModelConfig model = model_;
    model.moe.capacity_factor = 0.0;
    model.moe.group_sequences = 1;
    std::int64_t length = 32;
    while (length < count) length *= 2;
    if (model.family == ModelFamily::kGpt2Moe) length = std::min<std::int64_t>(length, model.max_positions);
    WEFT_CHECK(length >= count, "the text has ", count, " tokens, the model positions for ", model.max_positions);
    generation_logits_.resize(static_cast<std::size_t>(length * vocab));
    generation_capture_.logits = {generation_logits_.data(), length, vocab};
    generation_ = make_pass(model, 1, length, StepMode::kEvaluate, &generation_capture_);
  }
  // Behind the text stands padding, which nothing before it can see.
  const auto length = static_cast<std::size_t>(generation_->length);
  std::vector<std::int32_t> padded(length, 0), targets(length, -1), positions(length), segments(length, 0);
  std::copy(tokens.begin(), tokens.end(), padded.begin());
  std::iota(positions.begin(), positions.end(), 0);
  generation_->state.batches = {{padded.data(), targets.data(), positions.data(), segments.data()}};
  generation_->step->run();
  const T* row = generation_logits_.data() + (count - 1) * vocab;
  return std::vector<T>(row, row + vocab);
}

template <class T>
std::int32_t sample_token(std::span<const T> logits, const SampleOptions& options, std::uint64_t counter) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  if (options.temperature <= 0.0) return order.front();
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(options.top_k)));
  std::vector<double> cumulative;
  double sum = 0.0;
  const double best = static_cast<double>(logits[static_cast<std::size_t>(order.front())]);
  for (const std::int32_t id : order)
    cumulative.push_back(
        sum += std::exp((static_cast<double>(logits[static_cast<std::size_t>(id)]) - best) / options.temperature));
  const double draw = Rng(options.seed, RngPurpose::kSample).uniform(counter) * sum;
  const auto at = std::upper_bound(cumulative.begin(), cumulative.end(), draw) - cumulative.begin();
  return order[std::min(static_cast<std::size_t>(at), order.size() - 1)];
}

template class Evaluator<float>;
template class Evaluator<double>;
template class Evaluator<BF16>;
template std::int32_t sample_token(std::span<const float>, const SampleOptions&, std::uint64_t);
template std::int32_t sample_token(std::span<const double>, const SampleOptions&, std::uint64_t);
template std::int32_t sample_token(std::span<const BF16>, const SampleOptions&, std::uint64_t);

}  // namespace weft::parallel
