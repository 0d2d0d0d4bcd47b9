// parallel/model/parameter_store.h - a rank's weights, gradients and optimizer state, as flat arrays.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/matrix.h"
#include "core/memory.h"
#include "parallel/model/parameters.h"

namespace weft::parallel {

/// A weight and its gradient.
template <class T>
struct Parameter {
  T* weight = nullptr;
  T* grad = nullptr;
};

/// Weights and gradients: [table.count()]. Optimizer moments m and v: every element (sharded = false), or only those
/// this rank owns, bucket after bucket (sharded = true, ZeRO-1). Padding between buckets is zero.
template <class T>
class ParameterStore {
 public:
  ParameterStore(const ParameterTable& table, Device device, bool sharded);

  [[nodiscard]] const ParameterTable& table() const noexcept { return *table_; }
  [[nodiscard]] Device device() const noexcept { return device_; }  ///< Where all of it lies.
  [[nodiscard]] bool sharded() const noexcept { return sharded_; }
  [[nodiscard]] T* weights() const noexcept { return weights_.as<T>(); }
  [[nodiscard]] T* gradients() const noexcept { return gradients_.as<T>(); }
  [[nodiscard]] T* m() const noexcept { return m_.as<T>(); }
  [[nodiscard]] T* v() const noexcept { return v_.as<T>(); }

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
  Memory weights_, gradients_, m_, v_;
};

/// Elements of m (and of v) that a rank keeps.
[[nodiscard]] std::int64_t optimizer_state_count(const ParameterTable& table, bool sharded);

/// Draws all local weights: a pure function of (seed, global name, element), so every layout starts from the same
/// model.
template <class T>
void initialize_weights(ParameterStore<T>& store, const ModelConfig& config, std::uint64_t seed);

}  // namespace weft::parallel
