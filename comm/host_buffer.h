// comm/host_buffer.h - bytes and elements of Buffers in host memory, for the host backends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "comm/communicator.h"

namespace weft::comm {

[[nodiscard]] inline std::byte* at(Buffer buffer, std::int64_t element) noexcept {
  return static_cast<std::byte*>(buffer.data) + element * size_of(buffer.dtype);
}
[[nodiscard]] inline const std::byte* at(ConstBuffer buffer, std::int64_t element) noexcept {
  return static_cast<const std::byte*>(buffer.data) + element * size_of(buffer.dtype);
}
[[nodiscard]] inline std::int64_t bytes_of(ConstBuffer buffer) noexcept { return buffer.count * size_of(buffer.dtype); }

/// Null pointers are fine for no bytes; `to` may equal `from`.
inline void copy_bytes(void* to, const void* from, std::int64_t bytes) noexcept {
  if (bytes > 0 && to != from) std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

}  // namespace weft::comm
