// core/dtype.h - element types, and the C++ types behind them.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/bf16.h"

namespace weft {

enum class DType : std::uint8_t { kF32, kF64, kBF16, kI32, kI64, kU8 };

[[nodiscard]] std::int64_t size_of(DType dtype) noexcept;        ///< Bytes of one element.
[[nodiscard]] std::string_view to_string(DType dtype) noexcept;  ///< safetensors' names: "F32", "F64", "BF16", ...
[[nodiscard]] DType dtype_from_string(std::string_view name);    ///< Throws kInvalidArgument for other names.

/// DType of a C++ type: dtype_of<float> == DType::kF32.
template <class T>
inline constexpr DType dtype_of = [] {
  static_assert(sizeof(T) == 0, "no DType for this type");
  return DType::kF32;
}();
template <>
inline constexpr DType dtype_of<float> = DType::kF32;
template <>
inline constexpr DType dtype_of<double> = DType::kF64;
template <>
inline constexpr DType dtype_of<BF16> = DType::kBF16;
template <>
inline constexpr DType dtype_of<std::int32_t> = DType::kI32;
template <>
inline constexpr DType dtype_of<std::int64_t> = DType::kI64;
template <>
inline constexpr DType dtype_of<std::uint8_t> = DType::kU8;

}  // namespace weft
