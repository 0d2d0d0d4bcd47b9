// core/safetensors_header.h - the JSON header of a safetensors file, to and from text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/safetensors.h"

namespace weft::safetensors {

inline constexpr std::int64_t kMaxHeaderBytes = 100'000'000;  ///< The format's own limit.

struct Header {
  std::vector<TensorInfo> tensors;  ///< Sorted by `begin`: the ranges follow one another from 0.
  SafetensorsMetadata metadata;
  std::int64_t data_bytes = 0;  ///< End of the last range.
};

/// Untrusted text. Throws Error as SafetensorsReader's constructor; `file` is for the messages.
[[nodiscard]] Header parse_header(std::string_view text, std::string_view file);

/// The header of `tensors`, whose `begin` is set already, padded with spaces so that the data starts at a multiple
/// of 8.
[[nodiscard]] std::string format_header(const std::vector<TensorInfo>& tensors, const SafetensorsMetadata& metadata);

}  // namespace weft::safetensors
