// parallel/data/token_dataset.h - token files as training samples.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/token_shard.h"

namespace weft::parallel {

struct TokenDatasetOptions {
  std::vector<std::string> paths;    ///< Joined in this order. Formats: core/token_shard.h.
  std::int64_t sequence_length = 0;  ///< S
  std::int64_t vocab_size = 0;       ///< V: all ids lie in [0, V).
  /// The token that starts a document, in files whose format does not know their documents (llm.c). Without it, such a
  /// file is one document.
  std::optional<std::int32_t> end_of_text;
};

/// The tokens of all files in one row, cut into samples: sample i is the S + 1 tokens from i * S on, S inputs and, one
/// further, S targets. So each token but the first is a target once; the last (num_tokens - 1) % S tokens are left out.
/// Documents may lie across samples, and start: at each file's first token; where a Megatron index says so; at each
/// end_of_text token of the other files. Reads are safe from several threads.
class TokenDataset {
 public:
  /// Throws Error{kIo} naming a file that is missing or damaged; Error{kInvalidArgument} without files, or with too few
  /// tokens for one sample.
  explicit TokenDataset(TokenDatasetOptions options);

  [[nodiscard]] std::int64_t num_tokens() const noexcept { return first_token_.back(); }
  [[nodiscard]] std::int64_t num_samples() const noexcept { return (num_tokens() - 1) / options_.sequence_length; }
  [[nodiscard]] const TokenDatasetOptions& options() const noexcept { return options_; }

  struct Window {
    std::vector<std::int32_t> tokens;           ///< [S + 1]
    std::vector<std::uint8_t> starts_document;  ///< [S + 1], 0 or 1.
  };
  /// Sample in [0, num_samples()). Throws Error{kInvalidArgument} naming file, position and id for a token outside the
  /// vocabulary; Error{kIo} for a value that is no token id.
  [[nodiscard]] Window read(std::int64_t sample) const;
  /// Reads tokens [first, first + count) and throws as read(): finds bad data before the training starts.
  void check_tokens(std::int64_t first, std::int64_t count) const;
  /// Whether `token` announces a document: then it is a fair target for the document before it.
  [[nodiscard]] bool is_end_of_text(std::int32_t token) const noexcept { return options_.end_of_text == token; }

 private:
  /// Calls visit(shard index, first token in it, range of `count`) for the files that [first, first + count) lies in.
  template <class Visit>
  void for_each_part(std::int64_t first, std::int64_t count, const Visit& visit) const;
  void read_part(std::size_t shard, std::int64_t first, std::span<std::int32_t> out) const;
  void mark_documents(std::size_t shard, std::int64_t first, std::span<const std::int32_t> tokens,
                      std::span<std::uint8_t> starts) const;

  TokenDatasetOptions options_;
  std::vector<std::unique_ptr<TokenShard>> shards_;
  std::vector<std::int64_t> first_token_{0};  ///< [number of files + 1], ascending; the last is num_tokens().
};

}  // namespace weft::parallel
