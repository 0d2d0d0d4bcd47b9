#include "parallel/attention/layout.h"

#include <algorithm>

#include "core/error.h"

namespace weft::parallel {
namespace {

/// Adds tokens [pos0, pos0 + len) of a sequence behind the rows that are there; a run that goes on stays one.
void append(std::vector<Segment>& rows, std::int32_t doc, std::int64_t pos0, std::int64_t len) {
  if (len == 0) return;
  const std::int64_t next_row = rows.empty() ? 0 : rows.back().local_off + rows.back().len;
  if (!rows.empty() && rows.back().doc == doc && rows.back().pos0 + rows.back().len == pos0)
    rows.back().len += len;
  else
    rows.push_back({doc, pos0, len, next_row});
}

}  // namespace

std::int64_t Layout::num_rows(int rank) const {
  const std::vector<Segment>& rows = ranks[static_cast<std::size_t>(rank)];
  return rows.empty() ? 0 : rows.back().local_off + rows.back().len;
}

Layout zigzag_layout(int num_sequences, std::int64_t sequence_length, SequenceGroup group) {
  const std::int64_t chunks = 2 * std::int64_t{group.ring};
  WEFT_CHECK(group.ring >= 1 && group.heads >= 1, "a sequence over ", group.ring, " x ", group.heads, " ranks");
  WEFT_CHECK(group.size() == 1 || sequence_length % (chunks * group.heads) == 0, "a sequence of ", sequence_length,
             " tokens is no multiple of 2 * ring * heads = ", chunks * group.heads);
  const std::int64_t chunk = sequence_length / chunks, rows = sequence_length / group.size();
  Layout layout;
  layout.ranks.resize(static_cast<std::size_t>(group.size()));
  for (int doc = 0; doc < num_sequences; ++doc) {
    if (group.size() == 1) {
      append(layout.ranks[0], doc, 0, sequence_length);
      continue;
    }
    for (int rank = 0; rank < group.size(); ++rank) {
      const std::int64_t r = rank / group.heads, first = rank % group.heads * rows, last = first + rows;
      const std::int64_t tail = (chunks - 1 - r) * chunk;  // the pair is [r * chunk, + chunk), [tail, + chunk)
      std::vector<Segment>& out = layout.ranks[static_cast<std::size_t>(rank)];
      append(out, doc, r * chunk + std::min(first, chunk), std::min(last, chunk) - std::min(first, chunk));
      append(out, doc, tail + std::max(first, chunk) - chunk, std::max(last, chunk) - std::max(first, chunk));
    }
  }
  return layout;
}

Layout gather_heads(const Layout& layout, int heads) {
  const std::size_t group = static_cast<std::size_t>(heads);
  WEFT_CHECK(heads >= 1 && layout.ranks.size() % group == 0, layout.ranks.size(), " ranks in groups of ", heads);
  Layout out;
  out.ranks.resize(layout.ranks.size() / group);
  std::int32_t num_docs = 0;
  for (const auto& rows : layout.ranks)
    if (!rows.empty()) num_docs = std::max(num_docs, rows.back().doc + 1);
  for (std::size_t r = 0; r < out.ranks.size(); ++r)
    for (std::int32_t doc = 0; doc < num_docs; ++doc)
      for (std::size_t h = 0; h < group; ++h)
        for (const Segment& s : layout.ranks[r * group + h])
          if (s.doc == doc) append(out.ranks[r], doc, s.pos0, s.len);
  return out;
}

std::vector<std::int64_t> tokens_of(const Layout& layout, int rank, std::int64_t sequence_length) {
  std::vector<std::int64_t> tokens;
  tokens.reserve(static_cast<std::size_t>(layout.num_rows(rank)));
  for (const Segment& s : layout.ranks[static_cast<std::size_t>(rank)])
    for (std::int64_t i = 0; i < s.len; ++i) tokens.push_back(s.doc * sequence_length + s.pos0 + i);
  return tokens;
}

}  // namespace weft::parallel
