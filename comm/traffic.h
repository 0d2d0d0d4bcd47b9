// comm/traffic.h - how many bytes ranks have sent one another, counted where collectives are called.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "comm/cost.h"

namespace weft::comm {

/// What this rank has put on the wire since its world was made, over all groups of it. Counted is what a collective has
/// to move when every message goes straight to its reader (comm/cost.h), whatever way a backend takes; a broadcast is
/// counted at its root. Groups count from threads of their own.
class Traffic {
 public:
  explicit Traffic(int num_ranks) : sent_bytes_(static_cast<std::size_t>(num_ranks)) {}
  void add(Collective collective, int dst_rank, std::int64_t bytes) noexcept {
    sent_bytes_[static_cast<std::size_t>(dst_rank)].fetch_add(bytes, std::memory_order_relaxed);
    by_collective_[static_cast<std::size_t>(collective)].fetch_add(bytes, std::memory_order_relaxed);
  }
  /// Both tables at one time, or the difference of two.
  struct Snapshot {
    std::vector<std::int64_t> sent_bytes;
    std::array<std::int64_t, kNumCollectives> by_collective{};
    friend Snapshot operator-(const Snapshot& a, const Snapshot& b);
  };
  [[nodiscard]] Snapshot snapshot() const { return {sent_bytes(), by_collective()}; }
  void add(const Snapshot& difference) noexcept;
  [[nodiscard]] std::vector<std::int64_t> sent_bytes() const;  ///< [P]: to each rank of the world; 0 to itself.
  [[nodiscard]] std::array<std::int64_t, kNumCollectives> by_collective() const;  ///< By Collective.

 private:
  std::vector<std::atomic<std::int64_t>> sent_bytes_;
  std::array<std::atomic<std::int64_t>, kNumCollectives> by_collective_{};
};

/// The traffic of every rank.
struct TrafficMatrix {
  int num_ranks = 1;                                          ///< P
  std::vector<std::int64_t> sent_bytes;                       ///< [P, P]: row: who sent, column: to whom.
  std::array<std::int64_t, kNumCollectives> by_collective{};  ///< Summed over ranks.
};

}  // namespace weft::comm
