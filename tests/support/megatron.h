// tests/support/megatron.h - writes a Megatron pair of files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/temp_folder.h"

namespace weft::test {

/// `prefix`.bin and `prefix`.idx: one sequence per document, int32 tokens.
inline void put_megatron(const std::filesystem::path& prefix, const std::vector<std::vector<std::int32_t>>& documents) {
  std::string tokens, lengths, pointers, indices = raw(std::int64_t{0});
  std::int64_t num_documents = 0;
  for (const auto& document : documents) {
    lengths += raw(static_cast<std::int32_t>(document.size()));
    pointers += raw(static_cast<std::int64_t>(tokens.size()));
    for (const std::int32_t token : document) tokens += raw(token);
    indices += raw(++num_documents);
  }
  put_bytes(prefix.string() + ".bin", tokens);
  put_bytes(prefix.string() + ".idx", std::string("MMIDIDX\0\0", 9) + raw(std::uint64_t{1}) + raw(std::uint8_t{4}) +
                                          raw(num_documents) + raw(num_documents + 1) + lengths + pointers + indices);
}

}  // namespace weft::test
