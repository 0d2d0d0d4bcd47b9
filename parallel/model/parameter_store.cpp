#include "parallel/model/parameter_store.h"

#include <algorithm>
#include <cmath>

#include "core/host_access.h"
#include "core/rng.h"
#include "kernels/reduce.h"

namespace weft::parallel {
namespace {

template <class T>
Memory zeroed(Device device, std::int64_t count) {
  Memory memory(device, count * static_cast<std::int64_t>(sizeof(T)));
  const auto stream = make_waiting_stream(device);
  stream->enqueue([&] { kernels::fill<T>(*stream, memory.template as<T>(), count, T(0)); });
  stream->synchronize();
  return memory;
}

template <class T>
void initialize(T* out, const LocalParameter& p, const ModelConfig& config, std::uint64_t seed) {
  const ParameterSpec& spec = p.spec;
  if (spec.init == Init::kOnes || spec.init == Init::kZeros) {
    std::fill_n(out, p.count(), spec.init == Init::kOnes ? T(1) : T(0));
    return;
  }
  const double scale = spec.init == Init::kScaledNormal ? 1.0 / std::sqrt(2.0 * config.layers) : 1.0;
  const Rng rng(seed, RngPurpose::kInit, 0, hash_name(spec.name));
  for (const ElementRun& run : p.runs(0, p.count()))
    for (std::int64_t i = 0; i < run.count; ++i)
      out[run.local_begin + i] =
          static_cast<T>(config.init_std * scale * rng.normal(static_cast<std::uint64_t>(run.tensor_begin + i)));
}

}  // namespace

std::int64_t optimizer_state_count(const ParameterTable& table, bool sharded) {
  std::int64_t count = 0;
  for (const Bucket& b : table.buckets()) count += sharded ? b.owner_count(b.replica_rank) : b.count;
  return count;
}

template <class T>
ParameterStore<T>::ParameterStore(const ParameterTable& table, Device device, bool sharded)
    : table_(&table),
      device_(device),
      sharded_(sharded),
      state_count_(optimizer_state_count(table, sharded)),
      weights_(zeroed<T>(device, table.count())),
      gradients_(zeroed<T>(device, table.count())),
      m_(zeroed<T>(device, state_count_)),
      v_(zeroed<T>(device, state_count_)) {
  std::int64_t offset = 0;
  for (int b = 0; b < static_cast<int>(table.buckets().size()); ++b) {
    state_offset_.push_back(offset);
    offset += update_end(b) - update_begin(b);
  }
}

template <class T>
std::int64_t ParameterStore<T>::update_begin(int b) const {
  const Bucket& bucket = table_->buckets()[static_cast<std::size_t>(b)];
  return sharded_ ? bucket.owner_begin(bucket.replica_rank) : 0;
}

template <class T>
std::int64_t ParameterStore<T>::update_end(int b) const {
  const Bucket& bucket = table_->buckets()[static_cast<std::size_t>(b)];
  return sharded_ ? bucket.owner_begin(bucket.replica_rank + 1) : bucket.count;
}

template <class T>
void initialize_weights(ParameterStore<T>& store, const ModelConfig& config, std::uint64_t seed) {
  HostAccess access(store.device());
  for (const LocalParameter& p : store.table().parameters())
    access.fill(store.weights() + p.offset, p.count(), [&](T* out) { initialize(out, p, config, seed); });
}

template class ParameterStore<float>;
template class ParameterStore<double>;
template void initialize_weights(ParameterStore<float>&, const ModelConfig&, std::uint64_t);
template void initialize_weights(ParameterStore<double>&, const ModelConfig&, std::uint64_t);

}  // namespace weft::parallel
