#include "tools/data/byte_tokenizer.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace weft::tools {
namespace {

constexpr double kHeldOutBlocks = 16.0;  // at least about so many, if blocks of kMinBlockBytes allow it
constexpr std::uint64_t kMinBlockBytes = 1024, kMaxBlockBytes = 65536;

// How many of `document`'s first bytes make a block: at least `wanted`, up to the end of that line, but never much
// more.
std::size_t block_length(std::string_view document, std::size_t wanted) {
  if (document.size() <= wanted) return document.size();
  const std::size_t newline = document.find('\n', wanted - 1);
  return newline < wanted * 2 ? newline + 1 : wanted;
}

void append(std::vector<std::uint16_t>& tokens, std::string_view text) {
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
}

}  // namespace

ByteTokenizer::ByteTokenizer(double val_fraction, std::uint64_t total_bytes)
    : val_fraction_(val_fraction),
      block_bytes_(
          std::clamp(static_cast<std::uint64_t>(static_cast<double>(total_bytes) * val_fraction / kHeldOutBlocks),
                     kMinBlockBytes, kMaxBlockBytes)) {
  WEFT_CHECK(val_fraction >= 0.0 && val_fraction <= 0.5, "val_fraction is ", val_fraction, ", not in [0, 0.5]");
}

bool ByteTokenizer::next_block_is_held_out() {
  const auto held_out_among = [&](std::uint64_t blocks) {
    return std::floor(static_cast<double>(blocks) * val_fraction_);
  };
  ++num_blocks_;
  return held_out_among(num_blocks_) > held_out_among(num_blocks_ - 1);
}

void ByteTokenizer::add(std::string_view document) {
  if (document.empty() || val_fraction_ == 0.0) {
    train_.push_back(kEndOfText);
    return append(train_, document);
  }
  for (bool mark = true; !document.empty();) {
    const std::string_view block = document.substr(0, block_length(document, block_bytes_));
    document.remove_prefix(block.size());
    const bool held_out = next_block_is_held_out();
    auto& tokens = held_out ? val_ : train_;
    if (mark || held_out) tokens.push_back(kEndOfText);
    append(tokens, block);
    mark = held_out;
  }
}

}  // namespace weft::tools
