// tools/data/token_stats.h - what is in token files: documents, ids and how well context foretells the next one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/token_shard.h"

namespace weft::tools {

struct TokenCount {
  std::int32_t token = 0;
  std::int64_t count = 0;
};

struct TokenStats {
  std::int64_t num_tokens = 0;
  std::int64_t num_documents = 0;
  std::int64_t longest_document = 0;  ///< Tokens, the mark before it included.
  std::int64_t num_ids = 0;           ///< Different ids that occur.
  std::int32_t max_id = -1;           ///< -1: no token at all.
  std::vector<TokenCount> counts;     ///< Most frequent first, ties by id; all ids that occur.
  std::optional<double> entropy;      ///< Nats; see inspect_tokens.
};

struct InspectOptions {
  std::int32_t end_of_text =
      -1;                 ///< The token that begins a document in llm.c files; -1: the first token of each file.
  int entropy_order = 0;  ///< n of H(c_n | c_1 .. c_{n-1}), over all files together; 0: none. Takes 12 bytes a token.
};

/// Throws Error{kInvalidArgument} as conditional_entropy does, Error{kIo} for a value that is no token.
[[nodiscard]] TokenStats inspect_tokens(std::span<const std::unique_ptr<TokenShard>> shards,
                                        const InspectOptions& options);

}  // namespace weft::tools
