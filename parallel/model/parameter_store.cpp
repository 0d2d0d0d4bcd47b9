#include "parallel/model/parameter_store.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/host_access.h"
#include "core/rng.h"
#include "kernels/reduce.h"

namespace weft::parallel {
namespace {

template <class T>
Memory zeroed(Device device, std::int64_t count) {
  Memory memory(device, count * static_cast<std::int64_t>(sizeof(T)));
  const auto stream = make_waiting_stream(device);
  stream->enqueue([&] { kernels::fill<T>(*stream, memory.template as<T>(), count, Wide<T>(0)); });
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
      gradients_(zeroed<Wide<T>>(device, table.count())),
      m_(zeroed<Wide<T>>(device, state_count_)),
      v_(zeroed<Wide<T>>(device, state_count_)) {
  if (!std::is_same_v<T, Wide<T>>) masters_ = zeroed<Wide<T>>(device, state_count_);
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
std::vector<UpdateRun> update_runs(const ParameterStore<T>& store, int b) {
  const Bucket& bucket = store.table().buckets()[static_cast<std::size_t>(b)];
  const std::int64_t begin = bucket.offset + store.update_begin(b), end = bucket.offset + store.update_end(b);
  std::vector<UpdateRun> runs;
  for (const LocalParameter& p : store.table().parameters()) {
    const std::int64_t first = std::max(begin, p.offset), last = std::min(end, p.offset + p.count());
    if (first < last) runs.push_back({&p, first, last, store.state_offset(b) + first - begin});
  }
  return runs;
}

template <class T>
void set_weights(ParameterStore<T>& store, const std::function<void(const LocalParameter&, Wide<T>*)>& write) {
  HostAccess access(store.device());
  if constexpr (std::is_same_v<T, Wide<T>>) {
    for (const LocalParameter& p : store.table().parameters())
      access.fill(store.weights() + p.offset, p.count(), [&](T* out) { write(p, out); });
    return;
  }
  std::map<const LocalParameter*, std::vector<UpdateRun>> owned;
  for (int b = 0; b < static_cast<int>(store.table().buckets().size()); ++b)
    for (const UpdateRun& run : update_runs(store, b)) owned[run.parameter].push_back(run);
  std::vector<Wide<T>> wide;
  for (const LocalParameter& p : store.table().parameters()) {
    wide.resize(static_cast<std::size_t>(p.count()));
    write(p, wide.data());
    access.fill(store.weights() + p.offset, p.count(), [&](T* out) { std::copy(wide.begin(), wide.end(), out); });
    for (const UpdateRun& run : owned[&p])
      access.fill(store.masters() + run.state, run.end - run.begin,
                  [&](Wide<T>* out) { std::copy_n(wide.data() + run.begin - p.offset, run.end - run.begin, out); });
  }
}

template <class T>
void initialize_weights(ParameterStore<T>& store, const ModelConfig& config, std::uint64_t seed) {
  set_weights<T>(store, [&](const LocalParameter& p, Wide<T>* out) { initialize(out, p, config, seed); });
}

#define WEFT_INSTANTIATE(T)                                                                                   \
  template class ParameterStore<T>;                                                                           \
  template std::vector<UpdateRun> update_runs(const ParameterStore<T>&, int);                                 \
  template void set_weights(ParameterStore<T>&, const std::function<void(const LocalParameter&, Wide<T>*)>&); \
  template void initialize_weights(ParameterStore<T>&, const ModelConfig&, std::uint64_t);
WEFT_INSTANTIATE(float)
WEFT_INSTANTIATE(double)
WEFT_INSTANTIATE(BF16)
#undef WEFT_INSTANTIATE

}  // namespace weft::parallel
