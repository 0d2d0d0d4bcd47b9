#include "parallel/train/validator.h"

#include <algorithm>

#include "parallel/data/batch.h"
#include "parallel/step/update.h"
#include "parallel/train/run_setup.h"
#include "scheduler/policy.h"

namespace weft::parallel {

template <class T>
Validator<T>::Validator(const RunConfig& config, const MeshComms& comms, const Mesh& mesh)
    : config_(config), comms_(comms), mesh_(mesh), data_(config.data.val, dataset_options(config)) {
  num_sequences_ = data_.num_samples();
  if (config.train.validate_sequences > 0)
    num_sequences_ = std::min<std::int64_t>(num_sequences_, config.train.validate_sequences);
}

template <class T>
double Validator<T>::run(ParameterStore<T>& store) {
  const auto stream = make_inline_stream();
  if (!step_) {
    const StepSpec spec = validation_spec(config_, mesh_);
    const scheduler::Shape shape = training_shape(config_);
    const scheduler::Graph graph = emit_step(spec, shape, config_.train.dtype);
    step_ = std::make_unique<BoundStep<T>>(spec, scheduler::sequential_plan(graph, shape),
                                           Runtime<T>{&store, &comms_, &state_, nullptr});
    state_.statistics = StepStatistics(config_.model, step_->num_units(), mesh_.world_size);
  }
  if (store.sharded())
    for (int b = 0; b < static_cast<int>(store.table().buckets().size()); ++b)
      if (store.table().buckets()[static_cast<std::size_t>(b)].num_replicas > 1) gather_weights<T>(store, b, comms_, *stream);
  const std::int64_t per_round = std::int64_t{config_.train.micro_batch} * mesh_.dp_size();
  double sums[2] = {0.0, 0.0};
  for (std::int64_t first = 0; first < num_sequences_; first += per_round) {
    const std::int64_t mine = first + std::int64_t{mesh_.dp_rank()} * config_.train.micro_batch;
    const Batch batch = data_.validation_batch(mine, config_.train.micro_batch, num_sequences_);
    state_.batches = {{batch.tokens.data(), batch.targets.data(), batch.positions.data(), batch.segments.data()}};
    step_->run();
    sums[0] += state_.statistics.loss_sum(0);
    sums[1] += static_cast<double>(num_valid_targets(batch));
  }
  comms_.world().all_reduce(comm::as_buffer(sums, 2), comm::as_buffer(sums, 2), comm::ReduceOp::kSum, *stream);
  return sums[0] / std::max(1.0, sums[1]);
}

template class Validator<float>;
template class Validator<double>;

}  // namespace weft::parallel
