// parallel/moe/dispatch_plan.h - where every routed row of one sub-batch goes, worked out from counts alone.
// Letters: T rows (tokens) of this rank, K choices, P ranks of the EP group, E = P * L experts, L local ones, r chunks.
// Q = ESP * P sources: the ranks whose rows a local expert takes in, source q = esp_rank * P + ep_rank.
//
// A chunk is a range of the T tokens. Its rows travel in four orders:
//   send order     (destination rank, expert, token, choice): what all-to-all-v sends; the same as (expert, token,
//   choice) arrival order  (source rank, local expert, token, choice): what all-to-all-v delivers to one rank gathered
//   order (ESP rank, then arrival order there) = (source, local expert, token, choice): after the all-gather expert
//   order   (local expert, source, token, choice): what the grouped GEMM wants
// With ESP = 1, gathered order is arrival order; with P = 1, arrival order is send order.
// Forward and backward may be cut into different numbers of chunks. Counts are therefore exchanged per piece, a piece
// being a range that lies in one forward and one backward chunk; one exchange serves all chunks of both directions.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "core/matrix.h"
#include "core/memory.h"
#include "core/stream.h"
#include "kernels/dispatch.h"

namespace weft::parallel {

/// Token boundaries of r chunks: [r + 1], chunk c = [cuts[c], cuts[c + 1]).
[[nodiscard]] std::vector<std::int64_t> chunk_cuts(std::int64_t rows, int chunks);

/// Tokens [begin, end) that chunk a of `cuts_a` and chunk b of `cuts_b` share; empty: begin == end.
[[nodiscard]] std::pair<std::int64_t, std::int64_t> chunk_overlap(std::span<const std::int64_t> cuts_a, int a,
                                                                  std::span<const std::int64_t> cuts_b, int b);

/// Rows of one chunk on their way.
struct ChunkRows {
  std::int64_t num_order = 0;                 ///< Rows that Order fills: num_send, or every entry with place_all.
  std::int64_t num_send = 0;                  ///< Rows that this rank's tokens send.
  std::int64_t num_recv = 0;                  ///< Rows that arrive at this rank.
  std::int64_t num_rows = 0;                  ///< Rows that its experts compute: those that arrive at any ESP peer.
  std::vector<std::int64_t> send_rows;        ///< [P] rows to each rank.
  std::vector<std::int64_t> recv_rows;        ///< [P] rows from each rank.
  std::vector<std::int64_t> shard_rows;       ///< [ESP] rows that arrive at each ESP peer.
  std::vector<std::int64_t> pair_rows;        ///< [P, P] rows from rank to rank of the EP group; with pair counts only.
  std::vector<std::int64_t> expert_offsets;   ///< [L + 1] in expert order.
  std::vector<kernels::RowBlock> to_experts;  ///< From gathered to expert order: a block per source and local expert.
  std::vector<kernels::RowBlock> from_experts;  ///< The way back.
};

struct DispatchDims {
  std::int64_t rows = 0;  ///< T
  int num_experts = 1;    ///< E
  int ep_size = 1;        ///< P
  int ep_rank = 0;
  int esp_size = 1;
  int esp_rank = 0;
  bool pair_counts = false;  ///< Every rank learns the counts between all pairs of ranks: hierarchical dispatch.
  int forward_chunks = 1;
  int backward_chunks = 1;
  /// kSlotMatrix over ranks that share groups: K = E, and the row tables have every entry, by expert, also those that
  /// other ranks send.
  bool place_all = false;
};

/// Rows are counted and placed on the step's device, in stream order; the host needs the counts alone, to know how much
/// travels. On the CPU both are the same memory.
class DispatchPlan {
 public:
  explicit DispatchPlan(const DispatchDims& dims, Device device = {});

  /// Counts this rank's choices per piece and expert. kept: [T, K] expert of each choice, -1 = dropped. Fills the send
  /// side.
  void count_choices(Stream& stream, Matrix<const std::int32_t> kept);
  /// Counts for routing in which every entry of every source's table travels, so that nobody need tell: K = E, entry
  /// (t, e) goes to expert e. Fills both sides.
  void count_all_entries();
  /// With pair counts: what every source must know, [P, pieces * L], to be gathered. Else what source q must know,
  /// source after source: [Q, pieces * L], for an all-to-all; all ESP peers need the same. On the device.
  [[nodiscard]] std::span<const std::int64_t> counts_to_send() const { return send_.on_device(); }
  /// With pair counts [Q, P, pieces * L], else [Q, pieces * L]. On the device.
  [[nodiscard]] std::span<std::int64_t> counts_to_receive() const { return recv_.on_device(); }
  /// Instead of counting and telling: the same routing was counted in another plan, whose chunks of either direction
  /// include all of this one's. On the host, once that plan's fetch_counts() is done. Fills both sides.
  void take_counts(const DispatchPlan& other);
  /// With Q = 1, instead of an exchange: what is sent is what comes.
  void keep_counts(Stream& stream);
  /// Brings the counts of both sides to the host, in stream order.
  void fetch_counts(Stream& stream);
  [[nodiscard]] bool pair_counts() const noexcept { return pair_counts_; }
  [[nodiscard]] std::int64_t counts_per_peer() const { return num_pieces() * num_local_experts_; }
  /// Works out all chunks, on the host, once fetch_counts() is done.
  void finish();

  [[nodiscard]] int num_chunks(bool backward) const { return static_cast<int>(chunks(backward).size()); }
  [[nodiscard]] const ChunkRows& chunk(bool backward, int c) const {
    return chunks(backward)[static_cast<std::size_t>(c)];
  }
  [[nodiscard]] std::span<const std::int64_t> cuts(bool backward) const {
    return backward ? backward_cuts_ : forward_cuts_;
  }
  [[nodiscard]] bool same_chunks() const { return forward_cuts_ == backward_cuts_; }
  [[nodiscard]] std::int64_t num_rows() const;  ///< Rows this rank's experts compute, all chunks.

  /// For each choice of the chunk's tokens its row in send order (-1: dropped), and for each row in send order its
  /// token. row: [T, K], the rows of the chunk's tokens are written; token: [num_send] of the chunk. source: [T, K],
  /// the token that each entry stands for, where that is not its row (data may be nullptr).
  struct Places {
    Matrix<std::int32_t> row;
    std::int32_t* token;
  };
  void place(Stream& stream, bool backward, int c, Matrix<const std::int32_t> kept, Matrix<const std::int32_t> source,
             const Places& out) const;
  /// Blocks of rows from expert order in forward chunk `f` to expert order in backward chunk `b`, of the tokens that
  /// both have.
  [[nodiscard]] std::vector<kernels::RowBlock> forward_to_backward(int f, int b) const;

 private:
  /// Counts of one side, where kernels and collectives have them and where the host reads them.
  class Counts {
   public:
    Counts(Device device, std::int64_t count);
    [[nodiscard]] std::span<std::int64_t> on_device() const { return {device_.as<std::int64_t>(), count_}; }
    [[nodiscard]] std::span<std::int64_t> on_host() const {
      return {(host_.data() != nullptr ? host_ : device_).as<std::int64_t>(), count_};
    }
    void fetch(Stream& stream) const;

   private:
    std::size_t count_;
    Memory device_, host_;  // host_: pinned; none on the CPU
  };

  [[nodiscard]] std::int64_t num_pieces() const { return static_cast<std::int64_t>(piece_cuts_.size()) - 1; }
  [[nodiscard]] std::int64_t count(std::int64_t piece, int src, std::int64_t local_expert) const {
    return pair_counts_ ? pair_count(piece, src, ep_rank_, local_expert)
                        : recv_.on_host()[cell(src, piece, local_expert)];
  }
  [[nodiscard]] std::int64_t pair_count(std::int64_t piece, int src, int dst_ep_rank, std::int64_t local_expert) const {
    return recv_.on_host()[cell(src * ep_size_ + dst_ep_rank, piece, local_expert)];
  }
  [[nodiscard]] std::size_t cell(std::int64_t peer, std::int64_t piece, std::int64_t local_expert) const {
    return static_cast<std::size_t>(peer * counts_per_peer() + piece * num_local_experts_ + local_expert);
  }
  [[nodiscard]] const std::vector<ChunkRows>& chunks(bool backward) const {
    return backward && !same_chunks() ? backward_ : forward_;
  }
  /// Each of this plan's counts is a sum of the other's.
  void add_up(const Counts& to, const DispatchPlan& other, const Counts& from) const;
  [[nodiscard]] std::pair<std::int64_t, std::int64_t> pieces_of(std::int64_t begin, std::int64_t end) const;
  void finish_chunk(ChunkRows& chunk, std::int64_t begin, std::int64_t end) const;
  void finish_pairs(ChunkRows& chunk, std::int64_t first_piece, std::int64_t last_piece) const;

  int ep_size_, ep_rank_, esp_size_, esp_rank_, num_sources_;
  bool pair_counts_, place_all_;
  std::int64_t num_local_experts_;
  std::vector<std::int64_t> forward_cuts_, backward_cuts_, piece_cuts_;
  Counts send_, recv_;
  std::vector<ChunkRows> forward_, backward_;
};

}  // namespace weft::parallel
