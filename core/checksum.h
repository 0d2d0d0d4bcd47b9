// core/checksum.h - XXH3, 64 bits: finds damaged files. No protection against an adversary.
// Source: the xxHash specification, github.com/Cyan4973/xxHash.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace weft {

[[nodiscard]] std::uint64_t checksum(const void* data, std::int64_t bytes);

/// The same over data that comes in pieces.
class Checksum {
 public:
  Checksum();
  void update(const void* data, std::int64_t bytes);
  [[nodiscard]] std::uint64_t value() const;

 private:
  struct Free {
    void operator()(void* state) const noexcept;
  };
  std::unique_ptr<void, Free> state_;
};

/// 16 lower-case hexadecimal digits, and back. Throws Error{kInvalidArgument} for other text.
[[nodiscard]] std::string checksum_to_text(std::uint64_t value);
[[nodiscard]] std::uint64_t checksum_from_text(std::string_view text);

}  // namespace weft
