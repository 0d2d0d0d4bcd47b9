#include "core/token_shard.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "core/token_shard_formats.h"

namespace weft {
namespace token_shard {
namespace {

constexpr std::int64_t kMaxToken = std::numeric_limits<std::int32_t>::max();

template <class Stored>
void convert_from(const std::byte* from, std::int64_t first, std::span<std::int32_t> out, std::string_view file) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    Stored x;
    std::memcpy(&x, from + i * sizeof(Stored), sizeof(Stored));
    const auto value = static_cast<std::int64_t>(x);
    if (value < 0 || value > kMaxToken)
      throw_damaged(std::filesystem::path(file), "token ", first + static_cast<std::int64_t>(i), " has the id ", value);
    out[i] = static_cast<std::int32_t>(value);
  }
}

}  // namespace

std::int64_t size_of(TokenType type) noexcept {
  switch (type) {
    case TokenType::kU8:
    case TokenType::kI8:
      return 1;
    case TokenType::kI16:
    case TokenType::kU16:
      return 2;
    case TokenType::kI32:
    case TokenType::kU32:
      return 4;
    case TokenType::kI64:
      return 8;
  }
  return 0;
}

std::string_view to_string(TokenType type) noexcept {
  switch (type) {
    case TokenType::kU8:
      return "uint8";
    case TokenType::kI8:
      return "int8";
    case TokenType::kI16:
      return "int16";
    case TokenType::kU16:
      return "uint16";
    case TokenType::kI32:
      return "int32";
    case TokenType::kU32:
      return "uint32";
    case TokenType::kI64:
      return "int64";
  }
  return "unknown";
}

void convert(TokenType type, const std::byte* from, std::int64_t first, std::span<std::int32_t> out,
             std::string_view file) {
  switch (type) {
    case TokenType::kU8:
      return convert_from<std::uint8_t>(from, first, out, file);
    case TokenType::kI8:
      return convert_from<std::int8_t>(from, first, out, file);
    case TokenType::kI16:
      return convert_from<std::int16_t>(from, first, out, file);
    case TokenType::kU16:
      return convert_from<std::uint16_t>(from, first, out, file);
    case TokenType::kI32:
      return convert_from<std::int32_t>(from, first, out, file);
    case TokenType::kU32:
      return convert_from<std::uint32_t>(from, first, out, file);
    case TokenType::kI64:
      return convert_from<std::int64_t>(from, first, out, file);
  }
}

void MappedTokens::read(std::int64_t first, std::span<std::int32_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  WEFT_CHECK(first >= 0 && count <= num_tokens_ && first <= num_tokens_ - count, path().string(), ": ", count,
             " tokens from ", first, " on, of ", num_tokens_);
  if (count == 0) return;
  const std::byte* from = file_.bytes().data() + header_bytes_ + first * size_of(type_);
  convert(type_, from, first, out, path().native());
}

}  // namespace token_shard

std::unique_ptr<TokenShard> open_token_shard(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  const auto with = [&](const char* extension) {
    fs::path other = path;
    return path.extension() == ".bin" || path.extension() == ".idx" ? other.replace_extension(extension)
                                                                    : other += extension;
  };
  std::error_code ignored;
  const fs::path idx = with(".idx");
  if (fs::exists(idx, ignored)) return token_shard::open_megatron(with(".bin"), idx);
  return token_shard::open_llmc(path);
}

TokenShardWriter::TokenShardWriter(const std::filesystem::path& path) : file_(path) {
  const std::array<std::byte, token_shard::kLlmcHeaderBytes> header{};  // filled in by finish()
  file_.write(header.data(), token_shard::kLlmcHeaderBytes);
}

void TokenShardWriter::append(std::span<const std::int32_t> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  const auto negative = std::ranges::find_if(tokens, [](std::int32_t t) { return t < 0; });
  WEFT_CHECK(negative == tokens.end(), "token ", num_tokens_ + (negative - tokens.begin()), " has the id ",
             negative == tokens.end() ? 0 : *negative);
  WEFT_CHECK(count <= token_shard::kMaxToken - num_tokens_, "more than ", token_shard::kMaxToken,
             " tokens in one file: split them over several files");
  file_.write(tokens.data(), count * 4);  // an int32 that is not negative has the bytes of its uint32
  num_tokens_ += count;
}

void TokenShardWriter::finish() {
  const auto [magic, version] = token_shard::kLlmcU32;
  const std::array<std::int32_t, 3> header{magic, version, static_cast<std::int32_t>(num_tokens_)};
  file_.overwrite(0, header.data(), sizeof(header));
  file_.commit();
}

}  // namespace weft
