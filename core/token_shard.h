// core/token_shard.h - files of token ids, memory-mapped and validated when they are opened.
// Sources: llm.c (dev/data/data_common.py, write_datafile): 256 little-endian int32 (magic, version, number of tokens),
// then the tokens; magic 20240520, version 1: uint16; magic 20240801, version 7: uint32. Megatron-LM
// (megatron/core/datasets/indexed_dataset.py): PREFIX.bin holds tokens, PREFIX.idx says of what type, and where
// sequences and documents begin.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/atomic_file.h"

namespace weft {

/// One file of tokens, whatever its format. Reads are safe from several threads.
class TokenShard {
 public:
  virtual ~TokenShard() = default;
  [[nodiscard]] virtual std::int64_t num_tokens() const noexcept = 0;
  [[nodiscard]] virtual std::string_view format() const noexcept = 0;      ///< "llm.c" or "megatron".
  [[nodiscard]] virtual std::string_view token_type() const noexcept = 0;  ///< "uint16", "int32", ...
  [[nodiscard]] virtual const std::filesystem::path& path() const noexcept = 0;
  /// Positions in [0, num_tokens()) where documents start, ascending, the first one 0; nullopt when the format does not
  /// know (llm.c marks a document by its first token, end-of-text).
  [[nodiscard]] virtual std::optional<std::span<const std::int64_t>> document_starts() const noexcept = 0;
  /// Tokens [first, first + out.size()). Throws Error{kInvalidArgument} for a range outside the file, Error{kIo} naming
  /// file and position for a value that is no token id (negative, or 2^31 and above).
  virtual void read(std::int64_t first, std::span<std::int32_t> out) const = 0;
};

/// `path`: an llm.c .bin; or a Megatron pair, named by its prefix, its .bin or its .idx. Throws Error{kIo} naming the
/// file and what is wrong: missing, unknown format, truncated, lengths that contradict one another.
[[nodiscard]] std::unique_ptr<TokenShard> open_token_shard(const std::filesystem::path& path);

/// Writes the llm.c format with uint32 tokens. The file appears with finish().
class TokenShardWriter {
 public:
  explicit TokenShardWriter(const std::filesystem::path& path);
  /// Throws Error{kInvalidArgument} for a negative token, or above 2^31 - 1 tokens (the header's count is an int32).
  void append(std::span<const std::int32_t> tokens);
  void finish();
  [[nodiscard]] std::int64_t num_tokens() const noexcept { return num_tokens_; }

 private:
  AtomicFile file_;
  std::int64_t num_tokens_ = 0;
};

}  // namespace weft
