// parallel/data/sample_order.h - in which order the samples of a data set are trained on.
// Source: a balanced Feistel network over the smallest even-bit domain that holds N, with cycle walking: Black,
// Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002. A pure function: nothing is stored, so nothing is lost
// on resuming.
#pragma once

#include <cstdint>

namespace weft::parallel {

/// Each epoch is a permutation of [0, N) of its own, keyed by (seed, epoch).
class SampleOrder {
 public:
  /// Throws Error{kInvalidArgument} for num_samples < 1.
  SampleOrder(std::uint64_t seed, std::int64_t num_samples);
  /// The sample at place `index` >= 0 of the whole training, in [0, N): place index % N of epoch index / N.
  [[nodiscard]] std::int64_t operator()(std::int64_t index) const;
  [[nodiscard]] std::int64_t num_samples() const noexcept { return num_samples_; }

 private:
  std::uint64_t seed_;
  std::int64_t num_samples_;
  int half_bits_;
};

}  // namespace weft::parallel
