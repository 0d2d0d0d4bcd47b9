#include "tools/data/token_stats.h"

#include <algorithm>

#include "core/error.h"
#include "tools/data/ngram_entropy.h"

namespace weft::tools {
namespace {

constexpr std::int64_t kChunk = 1 << 16;
constexpr std::int32_t kBorder = -1;  // no token has this id

// Sees every token of every file once.
class Collector {
 public:
  explicit Collector(bool keep_tokens) : keep_tokens_(keep_tokens) {}

  void begin_document() {
    end_document();
    ++stats_.num_documents;
    if (keep_tokens_) kept_.push_back(kBorder);
  }
  /// `mark`: the token is the mark of a document, not text.
  void add(std::int32_t token, bool mark) {
    if (static_cast<std::size_t>(token) >= counts_.size()) counts_.resize(static_cast<std::size_t>(token) + 1);
    ++counts_[static_cast<std::size_t>(token)];
    ++length_;
    if (keep_tokens_ && !mark) kept_.push_back(token);
  }
  void end_document() {
    stats_.longest_document = std::max(stats_.longest_document, length_);
    stats_.num_tokens += length_;
    length_ = 0;
  }
  TokenStats finish(int entropy_order) {
    end_document();
    stats_.max_id = static_cast<std::int32_t>(counts_.size()) - 1;
    for (std::size_t id = 0; id < counts_.size(); ++id)
      if (counts_[id] > 0) stats_.counts.push_back({static_cast<std::int32_t>(id), counts_[id]});
    stats_.num_ids = static_cast<std::int64_t>(stats_.counts.size());
    std::stable_sort(stats_.counts.begin(), stats_.counts.end(),
                     [](const TokenCount& a, const TokenCount& b) { return a.count > b.count; });
    if (keep_tokens_) stats_.entropy = conditional_entropy(kept_, entropy_order, kBorder);
    return std::move(stats_);
  }

 private:
  bool keep_tokens_;
  TokenStats stats_;
  std::int64_t length_ = 0;
  std::vector<std::int64_t> counts_;
  std::vector<std::int32_t> kept_;
};

void collect(const TokenShard& shard, std::int32_t end_of_text, Collector& collector) {
  const auto starts = shard.document_starts();
  std::size_t next_start = 0;
  std::vector<std::int32_t> chunk;
  for (std::int64_t first = 0; first < shard.num_tokens(); first += kChunk) {
    chunk.resize(static_cast<std::size_t>(std::min(kChunk, shard.num_tokens() - first)));
    shard.read(first, chunk);
    if (first == 0 && !starts && end_of_text < 0) end_of_text = chunk.front();
    for (std::size_t i = 0; i < chunk.size(); ++i) {
      const std::int64_t position = first + static_cast<std::int64_t>(i);
      const bool mark = !starts && chunk[i] == end_of_text;
      const bool starts_here = starts && next_start < starts->size() && (*starts)[next_start] == position;
      if (starts_here) ++next_start;
      if (mark || starts_here || position == 0) collector.begin_document();
      collector.add(chunk[i], mark);
    }
  }
}

}  // namespace

TokenStats inspect_tokens(std::span<const std::unique_ptr<TokenShard>> shards, const InspectOptions& options) {
  WEFT_CHECK(options.entropy_order >= 0, "entropy order is ", options.entropy_order);
  Collector collector(options.entropy_order > 0);
  for (const auto& shard : shards) collect(*shard, options.end_of_text, collector);
  return collector.finish(options.entropy_order);
}

}  // namespace weft::tools
