// core/crc32c.h - CRC-32 with Castagnoli's polynomial, as record files of TensorFlow and TensorBoard have it.
// Source: RFC 3720, appendix B.4 (polynomial 0x1EDC6F41, reflected).
#pragma once

#include <cstdint>
#include <string_view>

namespace weft {

[[nodiscard]] std::uint32_t crc32c(std::string_view data) noexcept;

}  // namespace weft
