// tools/data/byte_tokenizer.h - the built-in tokenizer: a token is a byte, and one more marks where a document begins.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace weft::tools {

inline constexpr int kEndOfText = 256;  ///< Stands before each document, as in llm.c's token files.
inline constexpr int kByteVocabSize = 257;

/// Turns documents into training and held-out tokens. Held out are whole blocks, spread evenly over all documents, so
/// that both parts read alike. A piece of text between two held-out blocks counts as a document of its own, and so does
/// a block.
class ByteTokenizer {
 public:
  /// val_fraction: share of the bytes to hold out, in [0, 0.5]. total_bytes: of all documents to come; it sets the size
  /// of a block, so that even a short text has several held-out ones. Throws Error{kInvalidArgument} for another
  /// fraction.
  ByteTokenizer(double val_fraction, std::uint64_t total_bytes);

  /// Tokens of one document, whole. An empty document leaves its mark only.
  void add(std::string_view document);

  [[nodiscard]] const std::vector<std::uint16_t>& train() const noexcept { return train_; }
  [[nodiscard]] const std::vector<std::uint16_t>& val() const noexcept { return val_; }
  [[nodiscard]] std::uint64_t block_bytes() const noexcept { return block_bytes_; }

 private:
  [[nodiscard]] bool next_block_is_held_out();

  double val_fraction_;
  std::uint64_t block_bytes_;
  std::uint64_t num_blocks_ = 0;
  std::vector<std::uint16_t> train_, val_;
};

}  // namespace weft::tools
