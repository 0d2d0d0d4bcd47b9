// core/matrix.h - a non-owning view of a row-major matrix: the argument type of every kernel.
#pragma once

#include <cstdint>
#include <type_traits>

namespace weft {

/// [rows, cols], row-major; `stride` elements from one row to the next (>= cols). Converts to Matrix<const T>.
/// A view never owns: the caller keeps the memory alive until the stream's work on it is done. constexpr, so that GPU
/// code may call it (nvcc's relaxed constexpr).
template <class T>
struct Matrix {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;

  Matrix() = default;
  constexpr Matrix(T* data_, std::int64_t rows_, std::int64_t cols_)
      : data(data_), rows(rows_), cols(cols_), stride(cols_) {}
  constexpr Matrix(T* data_, std::int64_t rows_, std::int64_t cols_, std::int64_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}

  constexpr operator Matrix<const T>() const requires(!std::is_const_v<T>) { return {data, rows, cols, stride}; }
  [[nodiscard]] constexpr T* row(std::int64_t i) const { return data + i * stride; }
  /// Rows [first, first + count).
  [[nodiscard]] constexpr Matrix row_range(std::int64_t first, std::int64_t count) const {
    return {data + first * stride, count, cols, stride};
  }
  /// Columns [first, first + count): a strided view.
  [[nodiscard]] constexpr Matrix col_range(std::int64_t first, std::int64_t count) const {
    return {data + first, rows, count, stride};
  }
};

}  // namespace weft
