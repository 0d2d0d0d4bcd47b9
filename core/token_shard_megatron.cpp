// core/token_shard_megatron.cpp - Megatron-LM's pairs of .bin and .idx.
//
// The .idx: "MMIDIDX\0\0", version u64 = 1, type code u8, number of sequences u64, number of document indices u64, then
// lengths of sequences (int32 each, in tokens), where they begin in the .bin (int64 each, in bytes), document indices
// (int64 each: the first sequence of each document, and the number of sequences at the end), and in multimodal sets one
// int8 per sequence.
#include <algorithm>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "core/token_shard_formats.h"

namespace weft::token_shard {
namespace {

constexpr std::string_view kMagic{"MMIDIDX\0\0", 9};

class MegatronShard final : public MappedTokens {
 public:
  MegatronShard(MappedFile bin, TokenType type, std::int64_t num_tokens, std::vector<std::int64_t> document_starts)
      : MappedTokens(std::move(bin), 0, type, num_tokens), document_starts_(std::move(document_starts)) {}
  [[nodiscard]] std::string_view format() const noexcept override { return "megatron"; }
  [[nodiscard]] std::optional<std::span<const std::int64_t>> document_starts() const noexcept override {
    return document_starts_;
  }

 private:
  std::vector<std::int64_t> document_starts_;
};

/// Takes values from the front of the .idx; nothing is read past its end.
class Cursor {
 public:
  explicit Cursor(const MappedFile& file) : file_(file), rest_(file.bytes()) {}

  template <class T>
  T take() {
    T value;
    std::memcpy(&value, take_bytes(sizeof(T)), sizeof(T));
    return value;
  }
  /// [count] values; `count` is untrusted.
  template <class T>
  std::vector<T> take_array(std::uint64_t count, std::string_view what) {
    if (count > rest_.size() / sizeof(T))
      throw_damaged(file_.path(), "it announces ", count, " ", what, ", ", rest_.size(), " bytes are left");
    std::vector<T> values(static_cast<std::size_t>(count));
    const std::byte* from = take_bytes(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), from, values.size() * sizeof(T));
    return values;
  }
  const std::byte* take_bytes(std::size_t bytes) {
    if (bytes > rest_.size()) throw_damaged(file_.path(), "it ends within its header");
    const std::byte* data = rest_.data();
    rest_ = rest_.subspan(bytes);
    return data;
  }
  [[nodiscard]] std::size_t bytes_left() const noexcept { return rest_.size(); }

 private:
  const MappedFile& file_;
  std::span<const std::byte> rest_;
};

TokenType type_of_code(std::uint8_t code, const std::filesystem::path& idx) {
  switch (code) {
    case 1:
      return TokenType::kU8;
    case 2:
      return TokenType::kI8;
    case 3:
      return TokenType::kI16;
    case 4:
      return TokenType::kI32;
    case 5:
      return TokenType::kI64;
    case 8:
      return TokenType::kU16;
    default:
      throw_damaged(idx, "its token type has the code ", static_cast<int>(code), ", which is no integer type");
  }
}

/// First token of each sequence, and the number of tokens at the end. [num_sequences + 1]
std::vector<std::int64_t> sequence_starts(Cursor& cursor, std::uint64_t num_sequences, TokenType type,
                                          const std::filesystem::path& idx) {
  const auto lengths = cursor.take_array<std::int32_t>(num_sequences, "sequence lengths");
  const auto pointers = cursor.take_array<std::int64_t>(num_sequences, "sequence pointers");
  std::vector<std::int64_t> starts{0};
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (lengths[i] < 0) throw_damaged(idx, "sequence ", i, " has a length of ", lengths[i]);
    if (pointers[i] != starts.back() * size_of(type))  // cannot overflow: at most 2^31 * 8 for each byte of the file
      throw_damaged(idx, "sequence ", i, " begins at byte ", pointers[i], ", expected ", starts.back() * size_of(type));
    starts.push_back(starts.back() + lengths[i]);
  }
  return starts;
}

std::vector<std::int64_t> document_starts(Cursor& cursor, std::uint64_t num_indices,
                                          const std::vector<std::int64_t>& starts, const std::filesystem::path& idx) {
  const auto indices = cursor.take_array<std::int64_t>(num_indices, "document indices");
  const auto num_sequences = static_cast<std::int64_t>(starts.size()) - 1;
  if (indices.empty() || indices.front() != 0 || indices.back() != num_sequences)
    throw_damaged(idx, "its document indices do not go from 0 to the number of sequences, ", num_sequences);
  const auto unsorted = std::ranges::is_sorted_until(indices);  // sorted, they all lie between the first and the last
  if (unsorted != indices.end())
    throw_damaged(idx, "document index ", unsorted - indices.begin(), " is below the one before it");
  std::vector<std::int64_t> documents;
  for (std::size_t i = 0; i + 1 < indices.size(); ++i) {
    const std::int64_t first = starts[static_cast<std::size_t>(indices[i])];
    const bool is_empty = first == starts[static_cast<std::size_t>(indices[i + 1])];
    if (!is_empty) documents.push_back(first);
  }
  return documents;
}

}  // namespace

std::unique_ptr<TokenShard> open_megatron(const std::filesystem::path& bin, const std::filesystem::path& idx) {
  const MappedFile index(idx);
  Cursor cursor(index);
  const auto* magic = reinterpret_cast<const char*>(cursor.take_bytes(kMagic.size()));
  if (std::string_view(magic, kMagic.size()) != kMagic) throw_damaged(idx, "it does not start with MMIDIDX");
  if (const auto version = cursor.take<std::uint64_t>(); version != 1)
    throw_damaged(idx, "its version is ", version, ", not 1");
  const TokenType type = type_of_code(cursor.take<std::uint8_t>(), idx);
  const auto num_sequences = cursor.take<std::uint64_t>();
  const auto num_indices = cursor.take<std::uint64_t>();
  const auto starts = sequence_starts(cursor, num_sequences, type, idx);
  auto documents = document_starts(cursor, num_indices, starts, idx);
  if (cursor.bytes_left() != 0 && cursor.bytes_left() != num_sequences)  // modes, one byte each
    throw_damaged(idx, "it has ", cursor.bytes_left(), " bytes after its last field");
  MappedFile tokens(bin);
  const std::int64_t expected = starts.back() * size_of(type);
  if (static_cast<std::int64_t>(tokens.bytes().size()) != expected)
    throw_damaged(bin, "its .idx announces ", starts.back(), " tokens, so ", expected, " bytes, but it has ",
                  tokens.bytes().size());
  return std::make_unique<MegatronShard>(std::move(tokens), type, starts.back(), std::move(documents));
}

}  // namespace weft::token_shard
