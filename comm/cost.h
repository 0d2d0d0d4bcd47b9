// comm/cost.h - what each collective moves, as formulas: the n of alpha + beta * n, for planning and for reports.
// Sources: Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1),
// 2005; Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms", JPDC 69(2), 2009 (the lower bound that the
// all-reduce meets). Nothing here looks at a communicator: a thousand-rank job is priced on a laptop.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace weft::comm {

enum class Collective : std::uint8_t { kAllReduce, kAllGather, kReduceScatter, kAllToAll, kBroadcast, kSendRecv };
inline constexpr int kNumCollectives = 6;

[[nodiscard]] std::string_view to_string(Collective collective) noexcept;

/// Bytes that one rank of P puts on the wire. `bytes` is the size of the collective's whole buffer on one rank, n
/// below:
///   all_reduce       2 (P - 1) / P * n   send (= recv); reduce-scatter, then all-gather
///   all_gather           (P - 1) / P * n   recv, P equal shares: each rank's share goes to P - 1 peers
///   reduce_scatter       (P - 1) / P * n   send, P equal blocks: all but its own leave the rank
///   all_to_all           (P - 1) / P * n   send, P equal blocks: all but its own leave the rank
///   broadcast        n                   what each rank but the root receives
///   send_recv        n                   send
/// 0 in a group of one. Uneven counts: see wire_bytes_sent. Throws Error{kInvalidArgument} for P < 1 or n < 0.
[[nodiscard]] double wire_bytes(Collective collective, int num_ranks, double bytes);

/// Bytes that leave `rank` in an all_to_all_v: all blocks but its own. send_counts: [P] elements.
[[nodiscard]] std::int64_t wire_bytes_sent(std::span<const std::int64_t> send_counts, int rank,
                                           std::int64_t element_bytes);

/// Rounds of messages that depend on one another, the number of times alpha is paid: all_reduce 2, broadcast
/// ceil(log2 P), others 1 (their P - 1 messages are under way together). 0 in a group of one.
[[nodiscard]] int rounds(Collective collective, int num_ranks);

}  // namespace weft::comm
