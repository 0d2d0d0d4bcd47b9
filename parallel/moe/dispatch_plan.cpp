#include "parallel/moe/dispatch_plan.h"

#include <algorithm>
#include <numeric>

namespace weft::parallel {

std::vector<std::int64_t> chunk_cuts(std::int64_t rows, int chunks) {
  std::vector<std::int64_t> cuts;
  for (int c = 0; c <= chunks; ++c) cuts.push_back(rows * c / chunks);
  return cuts;
}

std::pair<std::int64_t, std::int64_t> chunk_overlap(std::span<const std::int64_t> cuts_a, int a,
                                                    std::span<const std::int64_t> cuts_b, int b) {
  const auto i = static_cast<std::size_t>(a), j = static_cast<std::size_t>(b);
  const std::int64_t begin = std::max(cuts_a[i], cuts_b[j]);
  return {begin, std::max(begin, std::min(cuts_a[i + 1], cuts_b[j + 1]))};
}

DispatchPlan::DispatchPlan(const DispatchDims& dims)
    : ep_size_(dims.ep_size),
      ep_rank_(dims.ep_rank),
      esp_size_(dims.esp_size),
      esp_rank_(dims.esp_rank),
      num_sources_(dims.ep_size * dims.esp_size),
      pair_counts_(dims.pair_counts),
      place_all_(dims.place_all),
      num_local_experts_(dims.num_experts / dims.ep_size),
      forward_cuts_(chunk_cuts(dims.rows, dims.forward_chunks)),
      backward_cuts_(chunk_cuts(dims.rows, dims.backward_chunks)) {
  std::set_union(forward_cuts_.begin(), forward_cuts_.end(), backward_cuts_.begin(), backward_cuts_.end(),
                 std::back_inserter(piece_cuts_));
  piece_cuts_.erase(std::unique(piece_cuts_.begin(), piece_cuts_.end()), piece_cuts_.end());
  if (piece_cuts_.size() == 1) piece_cuts_.push_back(piece_cuts_.front());  // no rows: one empty piece
  const std::int64_t to_all = ep_size_ * counts_per_peer();
  send_counts_.resize(static_cast<std::size_t>(pair_counts_ ? to_all : esp_size_ * to_all));
  recv_counts_.resize(static_cast<std::size_t>(pair_counts_ ? num_sources_ * to_all : esp_size_ * to_all));
  forward_.resize(static_cast<std::size_t>(dims.forward_chunks));
  if (!same_chunks()) backward_.resize(static_cast<std::size_t>(dims.backward_chunks));
}

void DispatchPlan::count_choices(Matrix<const std::int32_t> kept) {
  std::fill(send_counts_.begin(), send_counts_.end(), 0);
  for (std::int64_t piece = 0; piece < num_pieces(); ++piece)
    for (std::int64_t t = piece_cuts_[piece]; t < piece_cuts_[piece + 1]; ++t)
      for (std::int64_t k = 0; k < kept.cols; ++k) {
        const std::int32_t e = kept.row(t)[k];
        if (e < 0) continue;
        const std::int64_t dst = e / num_local_experts_, local = e % num_local_experts_;
        ++send_counts_[cell(dst, piece, local)];
      }
  const auto one_shard = static_cast<std::ptrdiff_t>(ep_size_ * counts_per_peer());
  for (int s = 1; s < esp_size_ && !pair_counts_; ++s)
    std::copy_n(send_counts_.begin(), one_shard, send_counts_.begin() + s * one_shard);
}

void DispatchPlan::count_all_entries() {
  for (auto* counts : {&send_counts_, &recv_counts_})
    for (std::size_t i = 0; i < counts->size(); ++i) {
      const std::size_t piece =
          i / static_cast<std::size_t>(num_local_experts_) % static_cast<std::size_t>(num_pieces());
      (*counts)[i] = piece_cuts_[piece + 1] - piece_cuts_[piece];
    }
}

std::pair<std::int64_t, std::int64_t> DispatchPlan::pieces_of(std::int64_t begin, std::int64_t end) const {
  const auto first = std::lower_bound(piece_cuts_.begin(), piece_cuts_.end(), begin) - piece_cuts_.begin();
  const auto last = std::lower_bound(piece_cuts_.begin(), piece_cuts_.end(), end) - piece_cuts_.begin();
  return {first, begin == end ? first : last};
}

void DispatchPlan::finish_chunk(ChunkRows& chunk, std::int64_t begin, std::int64_t end) const {
  const auto [first, last] = pieces_of(begin, end);
  const std::int64_t num_local = num_local_experts_;
  const auto at_source = [&](int q, std::int64_t l) { return static_cast<std::size_t>(q * num_local + l); };
  std::vector<std::int64_t> rows(static_cast<std::size_t>(num_sources_ * num_local), 0);  // [source, local expert]
  chunk.send_rows.assign(static_cast<std::size_t>(ep_size_), 0);
  chunk.recv_rows.assign(static_cast<std::size_t>(ep_size_), 0);
  chunk.shard_rows.assign(static_cast<std::size_t>(esp_size_), 0);
  for (std::int64_t piece = first; piece < last; ++piece)
    for (std::int64_t l = 0; l < num_local; ++l) {
      for (int q = 0; q < num_sources_; ++q) {
        const std::int64_t n = count(piece, q, l);
        rows[at_source(q, l)] += n;
        chunk.shard_rows[static_cast<std::size_t>(q / ep_size_)] += n;
        if (q / ep_size_ == esp_rank_) chunk.recv_rows[static_cast<std::size_t>(q % ep_size_)] += n;
      }
      for (int p = 0; p < ep_size_; ++p)
        chunk.send_rows[static_cast<std::size_t>(p)] += send_counts_[cell(p, piece, l)];
    }
  if (pair_counts_) finish_pairs(chunk, first, last);
  chunk.num_send = std::accumulate(chunk.send_rows.begin(), chunk.send_rows.end(), std::int64_t{0});
  chunk.num_order = place_all_ ? (end - begin) * ep_size_ * num_local : chunk.num_send;
  chunk.num_recv = std::accumulate(chunk.recv_rows.begin(), chunk.recv_rows.end(), std::int64_t{0});
  chunk.num_rows = std::accumulate(chunk.shard_rows.begin(), chunk.shard_rows.end(), std::int64_t{0});

  std::vector<std::int64_t> gathered(rows.size());  // first gathered-order row of each cell
  std::exclusive_scan(rows.begin(), rows.end(), gathered.begin(), std::int64_t{0});
  chunk.gathered_of.resize(static_cast<std::size_t>(chunk.num_rows));
  chunk.expert_of.resize(static_cast<std::size_t>(chunk.num_rows));
  chunk.expert_offsets.assign(1, 0);
  std::int64_t at = 0;
  for (std::int64_t l = 0; l < num_local; ++l) {
    for (int q = 0; q < num_sources_; ++q)
      for (std::int64_t i = 0; i < rows[at_source(q, l)]; ++i, ++at) {
        chunk.gathered_of[static_cast<std::size_t>(at)] = static_cast<std::int32_t>(gathered[at_source(q, l)] + i);
        chunk.expert_of[static_cast<std::size_t>(gathered[at_source(q, l)] + i)] = static_cast<std::int32_t>(at);
      }
    chunk.expert_offsets.push_back(at);
  }
}

void DispatchPlan::finish_pairs(ChunkRows& chunk, std::int64_t first_piece, std::int64_t last_piece) const {
  chunk.pair_rows.assign(static_cast<std::size_t>(ep_size_) * static_cast<std::size_t>(ep_size_), 0);
  for (int src = 0; src < ep_size_; ++src)
    for (int dst = 0; dst < ep_size_; ++dst)
      for (std::int64_t piece = first_piece; piece < last_piece; ++piece)
        for (std::int64_t l = 0; l < num_local_experts_; ++l)
          chunk.pair_rows[static_cast<std::size_t>(src * ep_size_ + dst)] +=
              pair_count(piece, esp_rank_ * ep_size_ + src, dst, l);
}

void DispatchPlan::finish() {
  for (std::size_t c = 0; c < forward_.size(); ++c) finish_chunk(forward_[c], forward_cuts_[c], forward_cuts_[c + 1]);
  for (std::size_t c = 0; c < backward_.size(); ++c)
    finish_chunk(backward_[c], backward_cuts_[c], backward_cuts_[c + 1]);
}

std::int64_t DispatchPlan::num_rows() const {
  std::int64_t n = 0;
  for (const ChunkRows& chunk : forward_) n += chunk.num_rows;
  return n;
}

void DispatchPlan::place(bool backward, int c, Matrix<const std::int32_t> kept, Matrix<const std::int32_t> source,
                         const Places& out) const {
  const std::int64_t begin = cuts(backward)[static_cast<std::size_t>(c)],
                     end = cuts(backward)[static_cast<std::size_t>(c) + 1];
  const auto expert = [&](std::int64_t t, std::int64_t k) { return place_all_ ? std::int32_t(k) : kept.row(t)[k]; };
  std::vector<std::int64_t> next(static_cast<std::size_t>(ep_size_ * num_local_experts_) + 1,
                                 0);  // counting sort by expert
  for (std::int64_t t = begin; t < end; ++t)
    for (std::int64_t k = 0; k < kept.cols; ++k)
      if (const std::int32_t e = expert(t, k); e >= 0) ++next[static_cast<std::size_t>(e) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  for (std::int64_t t = begin; t < end; ++t)
    for (std::int64_t k = 0; k < kept.cols; ++k) {
      const std::int32_t e = expert(t, k);
      const std::int64_t at = e < 0 ? -1 : next[static_cast<std::size_t>(e)]++;
      out.row.row(t)[k] = static_cast<std::int32_t>(at);
      if (at >= 0)
        out.token[static_cast<std::size_t>(at)] =
            source.data != nullptr ? source.row(t)[k] : static_cast<std::int32_t>(t);
    }
}

std::vector<std::int32_t> DispatchPlan::forward_to_backward(int f, int b) const {
  const ChunkRows& from = chunk(false, f);
  std::vector<std::int32_t> out(static_cast<std::size_t>(from.num_rows), -1);
  const auto [f_first, f_last] =
      pieces_of(forward_cuts_[static_cast<std::size_t>(f)], forward_cuts_[static_cast<std::size_t>(f) + 1]);
  const auto [b_first, b_last] =
      pieces_of(backward_cuts_[static_cast<std::size_t>(b)], backward_cuts_[static_cast<std::size_t>(b) + 1]);
  std::int64_t f_at = 0, b_at = 0;
  for (std::int64_t l = 0; l < num_local_experts_; ++l)
    for (int q = 0; q < num_sources_; ++q) {
      // Both orders list a cell's rows by token, hence by piece: walk the pieces of either chunk side by side.
      for (std::int64_t piece = std::min(f_first, b_first); piece < std::max(f_last, b_last); ++piece) {
        const bool in_f = piece >= f_first && piece < f_last, in_b = piece >= b_first && piece < b_last;
        const std::int64_t n = count(piece, q, l);
        if (in_f && in_b)
          for (std::int64_t i = 0; i < n; ++i)
            out[static_cast<std::size_t>(f_at + i)] = static_cast<std::int32_t>(b_at + i);
        if (in_f) f_at += n;
        if (in_b) b_at += n;
      }
    }
  return out;
}

}  // namespace weft::parallel
