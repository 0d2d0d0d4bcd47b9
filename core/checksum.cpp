#include "core/checksum.h"

#include <xxhash.h>

#include <array>
#include <charconv>
#include <cstdio>
#include <new>

#include "core/error.h"

namespace weft {

std::uint64_t checksum(const void* data, std::int64_t bytes) {
  return XXH3_64bits(data, static_cast<std::size_t>(bytes));
}

Checksum::Checksum() : state_(XXH3_createState()) {
  if (state_ == nullptr) throw std::bad_alloc();
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_.get()));
}

void Checksum::Free::operator()(void* state) const noexcept { XXH3_freeState(static_cast<XXH3_state_t*>(state)); }

void Checksum::update(const void* data, std::int64_t bytes) {
  XXH3_64bits_update(static_cast<XXH3_state_t*>(state_.get()), data, static_cast<std::size_t>(bytes));
}

std::uint64_t Checksum::value() const { return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_.get())); }

std::string checksum_to_text(std::uint64_t value) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(value));
  return text.data();
}

std::uint64_t checksum_from_text(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (text.size() != 16 || error != std::errc() || end != text.data() + text.size() ||
      text.find_first_of("ABCDEF") != std::string_view::npos) {
    throw Error(ErrorCode::kInvalidArgument, str("'", text, "' is not a checksum of 16 hexadecimal digits"));
  }
  return value;
}

}  // namespace weft
