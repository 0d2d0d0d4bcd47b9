#include "parallel/step/step_context.h"

namespace weft::parallel {
namespace {

BufferId persistent(Emission& out, const char* label, MemoryClass memory, std::int64_t bytes) {
  return out.buffer({label, memory, bytes, false, true});
}

}  // namespace

template <class T>
StepContext<T>::StepContext(const StepSpec& spec_, const scheduler::Shape& shape_, const ParameterTable& table_,
                            Emission& out_, const Runtime<T>* runtime_)
    : spec(spec_), model(spec_.model), mesh(spec_.mesh), shape(shape_), table(table_), out(out_), runtime(runtime_) {
  for (const Bucket& bucket : table.buckets()) {
    const std::int64_t bytes = bucket.count * static_cast<std::int64_t>(sizeof(Wide<T>));
    weights_.push_back(
        persistent(out, "weights", MemoryClass::kParameters, bucket.count * static_cast<std::int64_t>(sizeof(T))));
    if (!training()) continue;
    gradients_.push_back(persistent(out, "gradients", MemoryClass::kGradients, bytes));
    const bool two =
        bucket.kind == Bucket::Kind::kDenseLayer;  // the second buffer orders tasks; its bytes stand in the first
    feed_forward_gradients_.push_back(two ? persistent(out, "gradients", MemoryClass::kGradients, 0) : kNoBuffer);
  }
}

template <class T>
Parameter<T> StepContext<T>::parameter(const std::string& name) const {
  if (runtime == nullptr) return {};
  const std::int64_t offset = table.find(name);
  if (offset < 0) return {};
  return {runtime->store->weights() + offset, runtime->store->gradients() + offset};
}

template <class T>
BufferId StepContext<T>::gradients(int bucket, GradientPart part) const {
  if (!training()) return kNoBuffer;
  const auto b = static_cast<std::size_t>(bucket);
  return part == GradientPart::kFeedForward && feed_forward_gradients_[b] != kNoBuffer ? feed_forward_gradients_[b]
                                                                                       : gradients_[b];
}

template <class T>
BufferList StepContext<T>::all_gradients(int bucket) const {
  const auto b = static_cast<std::size_t>(bucket);
  return {gradients_[b], feed_forward_gradients_[b]};
}

scheduler::ResourceSet group_links(const Mesh& mesh, int size, int stride) {
  if (!mesh.crosses_nodes(size, stride)) return {Resource::kIntra};
  if (stride >= mesh.ranks_per_node) return {Resource::kInter};
  return {Resource::kIntra, Resource::kInter};
}

TaskSpec compute_task(Stage stage, Phase phase, const char* label, int layer, const Unit& unit, WorkKind kind,
                      double amount) {
  TaskSpec spec;
  spec.stage = stage;
  spec.phase = phase;
  spec.label = label;
  spec.layer = static_cast<std::int16_t>(layer);
  spec.micro_batch = static_cast<std::int16_t>(unit.micro_batch);
  spec.sub_batch = static_cast<std::int16_t>(unit.sub_batch);
  spec.work = {kind, amount};
  return spec;
}

TaskSpec comm_task(Stage stage, Phase phase, const char* label, int layer, scheduler::ResourceSet resources,
                   WorkKind kind, double wire_bytes) {
  TaskSpec spec;
  spec.stage = stage;
  spec.phase = phase;
  spec.label = label;
  spec.layer = static_cast<std::int16_t>(layer);
  spec.resources = resources;
  spec.work = {kind, wire_bytes};
  return spec;
}

template class StepContext<float>;
template class StepContext<double>;
template class StepContext<BF16>;

}  // namespace weft::parallel
