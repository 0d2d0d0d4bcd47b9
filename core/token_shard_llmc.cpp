// core/token_shard_llmc.cpp - llm.c's .bin files.
#include <cstring>

#include "core/token_shard_formats.h"

namespace weft::token_shard {
namespace {

class LlmcShard final : public MappedTokens {
 public:
  using MappedTokens::MappedTokens;
  [[nodiscard]] std::string_view format() const noexcept override { return "llm.c"; }
  [[nodiscard]] std::optional<std::span<const std::int64_t>> document_starts() const noexcept override { return {}; }
};

}  // namespace

std::unique_ptr<TokenShard> open_llmc(const std::filesystem::path& path) {
  MappedFile file(path);
  const auto size = static_cast<std::int64_t>(file.bytes().size());
  std::array<std::int32_t, 3> header{};  // magic, version, number of tokens
  if (size < static_cast<std::int64_t>(sizeof(header))) throw_damaged(path, "it has only ", size, " bytes");
  std::memcpy(header.data(), file.bytes().data(), sizeof(header));
  const auto [magic, version, num_tokens] = header;
  if (magic != kLlmcU16[0] && magic != kLlmcU32[0])
    throw_damaged(path, "it starts with ", magic,
                  ", not with the mark of an llm.c file, and has no .idx file beside it");
  const bool is_u16 = magic == kLlmcU16[0];
  const std::int32_t expected_version = is_u16 ? kLlmcU16[1] : kLlmcU32[1];
  if (version != expected_version) throw_damaged(path, "its version is ", version, ", not ", expected_version);
  if (num_tokens < 0) throw_damaged(path, "its header announces ", num_tokens, " tokens");
  const TokenType type = is_u16 ? TokenType::kU16 : TokenType::kU32;
  const std::int64_t expected = kLlmcHeaderBytes + num_tokens * size_of(type);
  if (size != expected)
    throw_damaged(path, "its header announces ", num_tokens, " tokens, so ", expected, " bytes, but it has ", size);
  return std::make_unique<LlmcShard>(std::move(file), kLlmcHeaderBytes, type, num_tokens);
}

}  // namespace weft::token_shard
