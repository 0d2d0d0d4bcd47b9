#include "parallel/moe/dispatch_plan.h"

#include <algorithm>
#include <numeric>

#include "core/error.h"

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

namespace {

/// Boundaries of the pieces: those of either direction.
std::vector<std::int64_t> merged(const std::vector<std::int64_t>& a, const std::vector<std::int64_t>& b) {
  std::vector<std::int64_t> cuts;
  std::set_union(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(cuts));
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  if (cuts.size() == 1) cuts.push_back(cuts.front());  // no rows: one empty piece
  return cuts;
}

}  // namespace

DispatchPlan::Counts::Counts(Device device, std::int64_t count)
    : count_(static_cast<std::size_t>(count)), device_(device, count * std::int64_t{sizeof(std::int64_t)}) {
  if (device.kind != DeviceKind::kCpu) host_ = Memory(device, device_.bytes(), MemoryPlace::kPinned);
}

void DispatchPlan::Counts::fetch(Stream& stream) const {
  if (host_.data() != nullptr) copy_bytes(stream, host_.data(), device_.data(), device_.bytes());
}

DispatchPlan::DispatchPlan(const DispatchDims& dims, Device device)
    : ep_size_(dims.ep_size),
      ep_rank_(dims.ep_rank),
      esp_size_(dims.esp_size),
      esp_rank_(dims.esp_rank),
      num_sources_(dims.ep_size * dims.esp_size),
      pair_counts_(dims.pair_counts),
      place_all_(dims.place_all),
      num_local_experts_(dims.num_experts / dims.ep_size),
      forward_cuts_(chunk_cuts(dims.rows, dims.forward_chunks)),
      backward_cuts_(chunk_cuts(dims.rows, dims.backward_chunks)),
      piece_cuts_(merged(forward_cuts_, backward_cuts_)),
      send_(device, (pair_counts_ ? 1 : esp_size_) * ep_size_ * counts_per_peer()),
      recv_(device, (pair_counts_ ? num_sources_ : esp_size_) * ep_size_ * counts_per_peer()) {
  forward_.resize(static_cast<std::size_t>(dims.forward_chunks));
  if (!same_chunks()) backward_.resize(static_cast<std::size_t>(dims.backward_chunks));
}

void DispatchPlan::count_choices(Stream& stream, Matrix<const std::int32_t> kept) {
  const std::span<std::int64_t> counts = send_.on_device();
  kernels::count_rows(stream, {counts.data(), ep_size_ * num_local_experts_, num_local_experts_}, kept, piece_cuts_);
  const std::int64_t one_shard = ep_size_ * counts_per_peer();
  for (int s = 1; s < esp_size_ && !pair_counts_; ++s)
    copy_bytes(stream, counts.data() + s * one_shard, counts.data(), one_shard * std::int64_t{sizeof(std::int64_t)});
}

void DispatchPlan::keep_counts(Stream& stream) {
  const std::span<std::int64_t> send = send_.on_device();
  copy_bytes(stream, recv_.on_device().data(), send.data(), static_cast<std::int64_t>(send.size_bytes()));
}

void DispatchPlan::fetch_counts(Stream& stream) {
  send_.fetch(stream);
  recv_.fetch(stream);
}

void DispatchPlan::count_all_entries() {
  for (const std::span<std::int64_t> counts : {send_.on_host(), recv_.on_host()})
    for (std::size_t i = 0; i < counts.size(); ++i) {
      const std::size_t piece =
          i / static_cast<std::size_t>(num_local_experts_) % static_cast<std::size_t>(num_pieces());
      counts[i] = piece_cuts_[piece + 1] - piece_cuts_[piece];
    }
}

void DispatchPlan::add_up(const Counts& to, const DispatchPlan& other, const Counts& from) const {
  const std::span<std::int64_t> sums = to.on_host();
  const std::span<const std::int64_t> parts = from.on_host();
  std::fill(sums.begin(), sums.end(), 0);
  const auto num_peers = static_cast<std::int64_t>(parts.size()) / other.counts_per_peer();
  for (std::int64_t other_piece = 0; other_piece < other.num_pieces(); ++other_piece) {
    const std::int64_t begin = other.piece_cuts_[static_cast<std::size_t>(other_piece)];
    const auto after = std::upper_bound(piece_cuts_.begin(), piece_cuts_.end() - 1, begin);
    const std::int64_t piece = after - piece_cuts_.begin() - 1;
    for (std::int64_t peer = 0; peer < num_peers; ++peer)
      for (std::int64_t l = 0; l < num_local_experts_; ++l)
        sums[cell(peer, piece, l)] += parts[other.cell(peer, other_piece, l)];
  }
}

void DispatchPlan::take_counts(const DispatchPlan& other) {
  WEFT_CHECK(std::includes(other.piece_cuts_.begin(), other.piece_cuts_.end(), piece_cuts_.begin(), piece_cuts_.end()),
             "counts of other pieces");
  add_up(send_, other, other.send_);
  add_up(recv_, other, other.recv_);
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
        chunk.send_rows[static_cast<std::size_t>(p)] += send_.on_host()[cell(p, piece, l)];
    }
  if (pair_counts_) finish_pairs(chunk, first, last);
  chunk.num_send = std::accumulate(chunk.send_rows.begin(), chunk.send_rows.end(), std::int64_t{0});
  chunk.num_order = place_all_ ? (end - begin) * ep_size_ * num_local : chunk.num_send;
  chunk.num_recv = std::accumulate(chunk.recv_rows.begin(), chunk.recv_rows.end(), std::int64_t{0});
  chunk.num_rows = std::accumulate(chunk.shard_rows.begin(), chunk.shard_rows.end(), std::int64_t{0});

  std::vector<std::int64_t> gathered(rows.size());  // first gathered-order row of each cell
  std::exclusive_scan(rows.begin(), rows.end(), gathered.begin(), std::int64_t{0});
  chunk.to_experts.clear();
  chunk.from_experts.clear();
  chunk.expert_offsets.assign(1, 0);
  std::int64_t at = 0;
  for (std::int64_t l = 0; l < num_local; ++l) {
    for (int q = 0; q < num_sources_; ++q) {
      const std::int64_t from = gathered[at_source(q, l)], count = rows[at_source(q, l)];
      if (count > 0) {
        chunk.to_experts.push_back({at, from, count});
        chunk.from_experts.push_back({from, at, count});
      }
      at += count;
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

void DispatchPlan::place(Stream& stream, bool backward, int c, Matrix<const std::int32_t> kept,
                         Matrix<const std::int32_t> source, const Places& out) const {
  const std::int64_t begin = cuts(backward)[static_cast<std::size_t>(c)];
  const std::int64_t rows = cuts(backward)[static_cast<std::size_t>(c) + 1] - begin;
  const auto of_chunk = [&](Matrix<const std::int32_t> m) { return m.data != nullptr ? m.row_range(begin, rows) : m; };
  kernels::place_rows(stream, {out.row.row_range(begin, rows), out.token, begin},
                      of_chunk(place_all_ ? Matrix<const std::int32_t>() : kept), of_chunk(source),
                      ep_size_ * num_local_experts_);
}

std::vector<kernels::RowBlock> DispatchPlan::forward_to_backward(int f, int b) const {
  std::vector<kernels::RowBlock> out;
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
        if (in_f && in_b && n > 0) out.push_back({b_at, f_at, n});
        if (in_f) f_at += n;
        if (in_b) b_at += n;
      }
    }
  return out;
}

}  // namespace weft::parallel
