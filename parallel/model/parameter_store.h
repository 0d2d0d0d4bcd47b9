// parallel/model/parameter_store.h - a rank's weights, gradients and optimizer state, as flat arrays.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "core/bf16.h"
#include "core/matrix.h"
#include "core/memory.h"
#include "kernels/adamw.h"
#include "parallel/model/parameters.h"

namespace weft::parallel {

/// A weight and its gradient.
template <class T>
struct Parameter {
  T* weight = nullptr;
  Wide<T>* grad = nullptr;
};

/// Weights and gradients: [table.count()]. Optimizer moments m and v: every element (sharded = false), or only those
/// this rank owns, bucket after bucket (sharded = true, ZeRO-1); likewise, where weights are BF16, the F32 master
/// weights that they are rounded from. Padding between buckets is zero.
template <class T>
class ParameterStore {
 public:
  ParameterStore(const ParameterTable& table, Device device, bool sharded);

  [[nodiscard]] const ParameterTable& table() const noexcept { return *table_; }
  [[nodiscard]] Device device() const noexcept { return device_; }  ///< Where all of it lies.
  [[nodiscard]] bool sharded() const noexcept { return sharded_; }
  [[nodiscard]] T* weights() const noexcept { return weights_.as<T>(); }
  [[nodiscard]] Wide<T>* gradients() const noexcept { return gradients_.as<Wide<T>>(); }
  [[nodiscard]] Wide<T>* m() const noexcept { return m_.as<Wide<T>>(); }
  [[nodiscard]] Wide<T>* v() const noexcept { return v_.as<Wide<T>>(); }
  /// Null where the weights are their own.
  [[nodiscard]] Wide<T>* masters() const noexcept { return masters_.as<Wide<T>>(); }
  /// What the update of the elements from `offset` of m and v on needs.
  [[nodiscard]] kernels::AdamWState<T> state_at(std::int64_t offset) const noexcept {
    return {m() + offset, v() + offset, masters() != nullptr ? masters() + offset : nullptr};
  }

  /// Elements [begin, end) of bucket `b` that this rank updates, relative to the bucket.
  [[nodiscard]] std::int64_t update_begin(int b) const;
  [[nodiscard]] std::int64_t update_end(int b) const;
  /// Where element `update_begin(b)` of bucket b lies in m and v.
  [[nodiscard]] std::int64_t state_offset(int b) const { return state_offset_[static_cast<std::size_t>(b)]; }
  [[nodiscard]] std::int64_t state_count() const noexcept { return state_count_; }

 private:
  const ParameterTable* table_;
  Device device_;
  bool sharded_;
  std::vector<std::int64_t> state_offset_;
  std::int64_t state_count_ = 0;
  Memory weights_, gradients_, m_, v_, masters_;
};

/// Elements of m (and of v) that a rank keeps.
[[nodiscard]] std::int64_t optimizer_state_count(const ParameterTable& table, bool sharded);
/// Arrays of that many elements, of the type that gradients have: m, v, and master weights.
template <class T>
inline constexpr int kNumOptimizerStates = std::is_same_v<T, Wide<T>> ? 2 : 3;

/// The part [begin, end) of parameter `p`, as places in the store's arrays, that the rank updates in a bucket.
struct UpdateRun {
  const LocalParameter* parameter = nullptr;
  std::int64_t begin = 0, end = 0;  ///< In weights and gradients.
  std::int64_t state = 0;           ///< Of `begin` in m and v.
};
template <class T>
[[nodiscard]] std::vector<UpdateRun> update_runs(const ParameterStore<T>& store, int bucket);

/// Sets all weights, and their masters: write(parameter, out) fills the parameter's count() elements.
template <class T>
void set_weights(ParameterStore<T>& store, const std::function<void(const LocalParameter&, Wide<T>*)>& write);

/// Draws all local weights: a pure function of (seed, global name, element), so every layout starts from the same
/// model.
template <class T>
void initialize_weights(ParameterStore<T>& store, const ModelConfig& config, std::uint64_t seed);

}  // namespace weft::parallel
