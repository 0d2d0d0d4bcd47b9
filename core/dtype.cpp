#include "core/dtype.h"

#include <array>
#include <utility>

#include "core/error.h"

namespace weft {
namespace {

constexpr std::array<std::pair<DType, std::string_view>, 6> kNames{{{DType::kF32, "F32"},
                                                                    {DType::kF64, "F64"},
                                                                    {DType::kBF16, "BF16"},
                                                                    {DType::kI32, "I32"},
                                                                    {DType::kI64, "I64"},
                                                                    {DType::kU8, "U8"}}};

}  // namespace

std::int64_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF64:
    case DType::kI64:
      return 8;
    case DType::kBF16:
      return 2;
    case DType::kU8:
      return 1;
  }
  return 0;
}

std::string_view to_string(DType dtype) noexcept {
  for (const auto& [value, name] : kNames)
    if (value == dtype) return name;
  return "unknown";
}

DType dtype_from_string(std::string_view name) {
  for (const auto& [value, known] : kNames)
    if (known == name) return value;
  throw Error(ErrorCode::kInvalidArgument, str("unknown dtype '", name, "'"), "use F32, F64, BF16, I32, I64 or U8");
}

}  // namespace weft
