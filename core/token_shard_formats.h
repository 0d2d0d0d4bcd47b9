// core/token_shard_formats.h - the two formats behind core/token_shard.h, and what they share.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/token_shard.h"

namespace weft::token_shard {

/// An integer type that tokens are stored in.
enum class TokenType : std::uint8_t { kU8, kI8, kI16, kI32, kI64, kU16, kU32 };

[[nodiscard]] std::int64_t size_of(TokenType type) noexcept;
[[nodiscard]] std::string_view to_string(TokenType type) noexcept;

/// Tokens of `type` from `from` (no alignment needed), which are [first, first + out.size()) of `file`. Throws
/// Error{kIo} for a value that is no token id.
void convert(TokenType type, const std::byte* from, std::int64_t first, std::span<std::int32_t> out,
             std::string_view file);

/// The fields of an llm.c header that are used; 256 int32 in all.
inline constexpr std::int64_t kLlmcHeaderBytes = 256 * 4;
inline constexpr std::array<std::int32_t, 2> kLlmcU16{20240520, 1};  ///< magic, version
inline constexpr std::array<std::int32_t, 2> kLlmcU32{20240801, 7};

[[nodiscard]] std::unique_ptr<TokenShard> open_llmc(const std::filesystem::path& path);
[[nodiscard]] std::unique_ptr<TokenShard> open_megatron(const std::filesystem::path& bin,
                                                        const std::filesystem::path& idx);

/// Tokens of one type in a mapped file: what both formats come down to.
class MappedTokens : public TokenShard {
 public:
  MappedTokens(MappedFile file, std::int64_t header_bytes, TokenType type, std::int64_t num_tokens)
      : file_(std::move(file)), header_bytes_(header_bytes), type_(type), num_tokens_(num_tokens) {}
  [[nodiscard]] std::int64_t num_tokens() const noexcept override { return num_tokens_; }
  [[nodiscard]] std::string_view token_type() const noexcept override { return to_string(type_); }
  [[nodiscard]] const std::filesystem::path& path() const noexcept override { return file_.path(); }
  void read(std::int64_t first, std::span<std::int32_t> out) const override;

 private:
  MappedFile file_;
  std::int64_t header_bytes_;
  TokenType type_;
  std::int64_t num_tokens_;
};

/// Error{kIo}: "<file> is no valid token file: <what>".
template <class... Args>
[[noreturn]] void throw_damaged(const std::filesystem::path& file, const Args&... what) {
  throw Error(ErrorCode::kIo, str(file.string(), " is no valid token file: ", what...),
              "write it again with `weft data tokenize`, or check that it was copied completely");
}

}  // namespace weft::token_shard
