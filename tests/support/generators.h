// tests/support/generators.h - random inputs, seeded, and owned matrices whose padding shows stray writes.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/matrix.h"
#include "core/rng.h"

namespace weft::test {

/// Random numbers in order of the calls: the same seed gives the same case.
class Random {
 public:
  explicit Random(std::uint64_t seed) : rng_(seed, RngPurpose::kTest) {}
  double normal() { return rng_.normal(next_++); }
  double uniform() { return rng_.uniform(next_++); }  ///< In (0, 1).
  std::int64_t below(std::int64_t bound) {            ///< In [0, bound).
    return static_cast<std::int64_t>(rng_.below(static_cast<std::uint64_t>(bound), next_++));
  }
  /// One of `choices`.
  std::int64_t pick(std::initializer_list<std::int64_t> choices) {
    return choices.begin()[below(static_cast<std::int64_t>(choices.size()))];
  }
  template <class T>
  std::vector<T> normals(std::int64_t n) {
    std::vector<T> values(static_cast<std::size_t>(n));
    for (T& value : values) value = static_cast<T>(normal());
    return values;
  }
  /// n integers in [low, high).
  std::vector<std::int32_t> integers(std::int64_t n, std::int64_t low, std::int64_t high) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(n));
    for (auto& value : values) value = static_cast<std::int32_t>(low + below(high - low));
    return values;
  }
  /// 0 ... n-1 in random order.
  std::vector<std::int32_t> permutation(std::int64_t n) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < order.size(); ++i) {
      const auto j = static_cast<std::size_t>(below(static_cast<std::int64_t>(i) + 1));
      order[i] = order[j];
      order[j] = static_cast<std::int32_t>(i);
    }
    return order;
  }

 private:
  Rng rng_;
  std::uint64_t next_ = 0;
};

/// An owned [rows, cols] matrix with `pad` elements of NaN after each row (and before the first): a kernel that reads
/// them spoils its result, one that writes them is caught by guards_intact(). Elements start as NaN too.
template <class T>
class Grid {
 public:
  Grid(std::int64_t rows, std::int64_t cols, std::int64_t pad = 0)
      : rows_(rows), cols_(cols), pad_(pad), data_(static_cast<std::size_t>(pad + rows * (cols + pad)), kNaN) {}
  static Grid normal(Random& random, std::int64_t rows, std::int64_t cols, std::int64_t pad = 0) {
    Grid grid(rows, cols, pad);
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = 0; j < cols; ++j) grid(i, j) = static_cast<T>(random.normal());
    return grid;
  }

  T& operator()(std::int64_t i, std::int64_t j) { return data_[index(i, j)]; }
  T operator()(std::int64_t i, std::int64_t j) const { return data_[index(i, j)]; }
  [[nodiscard]] std::int64_t rows() const { return rows_; }
  [[nodiscard]] std::int64_t cols() const { return cols_; }
  [[nodiscard]] Matrix<T> view() { return {data_.data() + pad_, rows_, cols_, cols_ + pad_}; }
  [[nodiscard]] Matrix<const T> view() const { return {data_.data() + pad_, rows_, cols_, cols_ + pad_}; }
  [[nodiscard]] bool guards_intact() const {
    for (std::int64_t p = 0; p < pad_; ++p)
      for (std::int64_t i = -1; i < rows_; ++i)
        if (!std::isnan(data_[static_cast<std::size_t>((i + 1) * (cols_ + pad_) + p)])) return false;
    return true;
  }

 private:
  static constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  [[nodiscard]] std::size_t index(std::int64_t i, std::int64_t j) const {
    return static_cast<std::size_t>(pad_ + i * (cols_ + pad_) + j);
  }
  std::int64_t rows_, cols_, pad_;
  std::vector<T> data_;
};

}  // namespace weft::test
