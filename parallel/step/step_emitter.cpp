#include "parallel/step/step_emitter.h"

#include <algorithm>

#include "core/error.h"
#include "parallel/moe/gate_registry.h"

namespace weft::parallel {

StepEmitter::StepEmitter(StepSpec spec, scheduler::Recompute recompute, DType dtype, bool padded)
    : spec_(std::move(spec)), dtype_(dtype), gradient_bytes_(static_cast<std::size_t>(spec_.model.layers), 0.0) {
  const StepGeometry& g = spec_.geometry;
  constexpr int kMaxChunks = 8;
  const auto rows =
      static_cast<int>(std::min<std::int64_t>(kMaxChunks, std::int64_t{g.group_sequences} * g.rows_per_sequence()));
  const bool moe = spec_.model.layer_pattern.find('M') != std::string::npos;
  space_.base = uniform_shape(spec_.model.layers, {1, 1, 0, recompute});
  space_.base.padded = padded;
  space_.num_micro_batches = g.num_micro_batches;
  space_.max_sub_batches = std::min(4, g.micro_batch / g.group_sequences);
  space_.max_forward_chunks = space_.max_backward_chunks = moe ? rows : 1;
  const int groups = g.micro_batch / g.group_sequences;
  space_.min_sub_batch_share = static_cast<double>(groups / space_.max_sub_batches) / groups;
  space_.min_chunk_share = 0.5;  // rows that do not divide: floor(n / r) is at least half of n / r
  space_.max_gradient_slices = spec_.mesh.world_size > 1 ? 8 : 1;
  space_.has_weight_grads = moe;
  const ParameterTable table(spec_.model, spec_.mesh);  // outlives the loop over its buckets
  for (const Bucket& bucket : table.buckets())
    if (bucket.layer >= 0 && bucket.num_replicas > 1)
      gradient_bytes_[static_cast<std::size_t>(bucket.layer)] +=
          static_cast<double>(bucket.count) * static_cast<double>(size_of(dtype_));
}

double StepEmitter::gradient_bytes(int layer) const { return gradient_bytes_[static_cast<std::size_t>(layer)]; }

std::vector<std::string> describe(const StepSpec& spec, DType dtype) {
  std::vector<std::string> out;
  const auto line = [&](const char* what, const auto& value) { out.push_back(str(what, " = ", value)); };
  const ModelConfig& m = spec.model;
  line("plan format", 1);
  line("model.family", m.family == ModelFamily::kMixtral ? "MIXTRAL" : "GPT2_MOE");
  line("model.layers", m.layers);
  line("model.model_dim", m.model_dim);
  line("model.expert_hidden_dim", m.expert_hidden_dim);
  line("model.heads", m.heads);
  line("model.kv_heads", m.kv_heads);
  line("model.vocab_size", m.vocab_size);
  line("model.layer_pattern", m.layer_pattern);
  line("model.moe.gate", m.moe.gate);
  for (const GateOption& option : gate_entry(m.moe.gate).options)
    line("model.moe.gate_options", str(option.name, "=", gate_option(m.moe, option.name)));
  line("model.moe.experts", m.moe.experts);
  line("model.moe.top_k", m.moe.top_k);
  line("model.moe.capacity_factor", m.moe.capacity_factor);
  line("model.moe.group_sequences", m.moe.group_sequences);
  line("ranks", spec.mesh.world_size);
  line("ranks per node", spec.mesh.ranks_per_node);
  line("parallel.expert", spec.mesh.ep_size);
  line("parallel.expert_shard", spec.mesh.esp_size);
  line("parallel.sequence_heads", spec.mesh.sequence_heads);
  line("parallel.sequence_ring", spec.mesh.sequence_ring);
  constexpr const char* kDispatchers[] = {"ALL_TO_ALL", "HIERARCHICAL_1D", "HIERARCHICAL_2D"};
  line("parallel.dispatcher", kDispatchers[static_cast<int>(spec.dispatcher)]);
  line("parallel.zero", spec.sharded_optimizer);
  line("train.micro_batch", spec.geometry.micro_batch);
  line("train.sequence_length", spec.geometry.sequence_length);
  line("micro-batches", spec.geometry.num_micro_batches);
  line("train.dtype", to_string(dtype));
  if (spec.host_apart) line("host waits for routed counts", "yes");
  return out;
}

}  // namespace weft::parallel
