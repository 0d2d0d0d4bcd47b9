#include "parallel/data/token_dataset.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace weft::parallel {

TokenDataset::TokenDataset(TokenDatasetOptions options) : options_(std::move(options)) {
  WEFT_CHECK(options_.sequence_length >= 1, "a sequence length of ", options_.sequence_length);
  WEFT_CHECK(options_.vocab_size >= 1, "a vocabulary of ", options_.vocab_size, " tokens");
  WEFT_CHECK(!options_.paths.empty(), "no token files are given");
  for (const std::string& path : options_.paths) {
    shards_.push_back(open_token_shard(path));
    first_token_.push_back(first_token_.back() + shards_.back()->num_tokens());
  }
  if (num_tokens() <= options_.sequence_length) {
    const std::string rest = options_.paths.size() > 1 ? str(" and ", options_.paths.size() - 1, " more") : "";
    throw Error(ErrorCode::kInvalidArgument,
                str(options_.paths.front(), rest, ": ", num_tokens(), " tokens, one sample needs ",
                    options_.sequence_length + 1),
                "give more data or a shorter train.sequence_length");
  }
}

template <class Visit>
void TokenDataset::for_each_part(std::int64_t first, std::int64_t count, const Visit& visit) const {
  // The last file that begins at or before `first`: the one that holds it, as empty files begin and end at one place.
  auto shard = static_cast<std::size_t>(std::ranges::upper_bound(first_token_, first) - first_token_.begin()) - 1;
  for (; count > 0; ++shard) {
    const std::int64_t part = std::min(count, first_token_[shard + 1] - first);
    if (part > 0) visit(shard, first - first_token_[shard], part);
    first += part;
    count -= part;
  }
}

void TokenDataset::read_part(std::size_t shard, std::int64_t first, std::span<std::int32_t> out) const {
  shards_[shard]->read(first, out);
  const auto bad = std::ranges::find_if(out, [&](std::int32_t id) { return id >= options_.vocab_size; });
  if (bad == out.end()) return;
  throw Error(ErrorCode::kInvalidArgument,
              str(shards_[shard]->path().string(), ": token ", first + (bad - out.begin()), " has the id ", *bad,
                  ", the vocabulary has ", options_.vocab_size, " tokens"),
              "tokenize the data for this vocabulary, or raise model.vocab_size");
}

void TokenDataset::mark_documents(std::size_t shard, std::int64_t first, std::span<const std::int32_t> tokens,
                                  std::span<std::uint8_t> starts) const {
  if (first == 0) starts[0] = 1;
  if (const auto documents = shards_[shard]->document_starts()) {
    const std::int64_t end = first + static_cast<std::int64_t>(tokens.size());
    for (auto start = std::ranges::lower_bound(*documents, first); start != documents->end() && *start < end; ++start)
      starts[static_cast<std::size_t>(*start - first)] = 1;
    return;
  }
  for (std::size_t i = 0; i < tokens.size(); ++i)
    if (is_end_of_text(tokens[i])) starts[i] = 1;
}

TokenDataset::Window TokenDataset::read(std::int64_t sample) const {
  WEFT_CHECK(sample >= 0 && sample < num_samples(), "sample ", sample, " of ", num_samples());
  const std::int64_t length = options_.sequence_length + 1;
  Window window;
  window.tokens.resize(static_cast<std::size_t>(length));
  window.starts_document.resize(static_cast<std::size_t>(length));
  std::size_t done = 0;
  for_each_part(sample * options_.sequence_length, length, [&](std::size_t shard, std::int64_t first, std::int64_t n) {
    const auto count = static_cast<std::size_t>(n);
    const auto tokens = std::span(window.tokens).subspan(done, count);
    read_part(shard, first, tokens);
    mark_documents(shard, first, tokens, std::span(window.starts_document).subspan(done, count));
    done += count;
  });
  return window;
}

void TokenDataset::check_tokens(std::int64_t first, std::int64_t count) const {
  WEFT_CHECK(first >= 0 && count >= 0 && first <= num_tokens() - count, count, " tokens from ", first, " on, of ",
             num_tokens());
  constexpr std::int64_t kPiece = 1 << 16;
  std::vector<std::int32_t> piece;
  for_each_part(first, count, [&](std::size_t shard, std::int64_t begin, std::int64_t n) {
    for (std::int64_t done = 0; done < n; done += kPiece) {
      piece.resize(static_cast<std::size_t>(std::min(kPiece, n - done)));
      read_part(shard, begin + done, piece);
    }
  });
}

}  // namespace weft::parallel
