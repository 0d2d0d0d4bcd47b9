#include "parallel/train/validator.h"

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "parallel/data/batch.h"
#include "parallel/data/shard.h"
#include "parallel/step/update.h"
#include "parallel/train/run_setup.h"
#include "scheduler/order.h"

namespace weft::parallel {
namespace {

/// `batch` with sequences that count for nothing behind its own, up to `num_sequences`.
Batch padded(Batch batch, std::int64_t num_sequences) {
  for (std::int32_t segment = 1 << 30; batch.num_sequences < num_sequences; ++batch.num_sequences, ++segment) {
    const auto n = static_cast<std::size_t>(batch.sequence_length);
    batch.tokens.insert(batch.tokens.end(), n, 0);
    batch.targets.insert(batch.targets.end(), n, kernels::kIgnoreTarget);
    batch.segments.insert(batch.segments.end(), n, segment);
    for (std::int32_t p = 0; p < batch.sequence_length; ++p) batch.positions.push_back(p);
    batch.sample_ids.push_back(-1);
  }
  return batch;
}

}  // namespace

template <class T>
Validator<T>::Validator(const RunConfig& config, const MeshComms& comms, StepSpec spec, const scheduler::Shape& shape,
                        Device device)
    : config_(config),
      comms_(comms),
      spec_(std::move(spec)),
      shape_(shape),
      data_(dataset_options(config, config.data.val)),
      device_(device) {
  const TrainConfig& t = config.train;
  layout_ = validation_layout(data_, t.validate_sequences,
                              {t.global_batch, t.micro_batch, spec_.mesh.dp_size(), spec_.mesh.dp_rank()});
}

template <class T>
double Validator<T>::run(ParameterStore<T>& store) {
  const auto stream = make_inline_stream();
  if (!step_) {
    const scheduler::Graph graph = emit_step(spec_, shape_, config_.train.dtype);
    step_ = std::make_unique<BoundStep<T>>(spec_, scheduler::sequential_plan(graph, shape_),
                                           Runtime<T>{&store, &comms_, &state_, nullptr}, device_);
  }
  if (store.sharded()) {
    const auto gather = make_waiting_stream(device_);
    gather->enqueue([&] {
      for (int b = 0; b < static_cast<int>(store.table().buckets().size()); ++b)
        if (store.table().buckets()[static_cast<std::size_t>(b)].num_replicas > 1)
          gather_weights<T>(store, b, comms_, *gather);
    });
    gather->synchronize();
  }
  double sums[2] = {0.0, 0.0};
  for (std::int64_t round = 0; round < layout_.num_rounds(); ++round) {
    const Batch whole =
        padded(validation_batch(data_, layout_, round, attend_mode(config_)), config_.train.micro_batch);
    const LocalBatch batch = shard(whole, spec_.mesh.sequence_group(), spec_.mesh.sp_rank());
    state_.batches = {batch.view()};
    step_->run();
    for (int u = 0; u < step_->num_units(); ++u) sums[0] += state_.statistics.loss_sum_on_host(u);
    sums[1] += static_cast<double>(count_valid_targets(batch.targets));
  }
  comms_.host_world().all_reduce(comm::as_buffer(sums, 2), comm::as_buffer(sums, 2), comm::ReduceOp::kSum, *stream);
  return sums[0] / std::max(1.0, sums[1]);
}

template class Validator<float>;
template class Validator<double>;
template class Validator<BF16>;

}  // namespace weft::parallel
