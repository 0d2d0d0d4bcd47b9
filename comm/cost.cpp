#include "comm/cost.h"

#include <bit>

#include "core/error.h"

namespace weft::comm {

std::string_view to_string(Collective collective) noexcept {
  switch (collective) {
    case Collective::kAllReduce:
      return "all_reduce";
    case Collective::kAllGather:
      return "all_gather";
    case Collective::kReduceScatter:
      return "reduce_scatter";
    case Collective::kAllToAll:
      return "all_to_all";
    case Collective::kBroadcast:
      return "broadcast";
    case Collective::kSendRecv:
      return "send_recv";
  }
  return "unknown";
}

double wire_bytes(Collective collective, int num_ranks, double bytes) {
  WEFT_CHECK(num_ranks >= 1, "wire_bytes: ", num_ranks, " ranks");
  WEFT_CHECK(bytes >= 0.0, "wire_bytes: ", bytes, " bytes");
  if (num_ranks == 1) return 0.0;
  const double others = static_cast<double>(num_ranks - 1) / num_ranks;
  switch (collective) {
    case Collective::kAllReduce:
      return 2.0 * others * bytes;
    case Collective::kAllGather:
    case Collective::kReduceScatter:
    case Collective::kAllToAll:
      return others * bytes;
    case Collective::kBroadcast:
    case Collective::kSendRecv:
      return bytes;
  }
  return 0.0;
}

std::int64_t wire_bytes_sent(std::span<const std::int64_t> send_counts, int rank, std::int64_t element_bytes) {
  WEFT_CHECK(rank >= 0 && static_cast<std::size_t>(rank) < send_counts.size(), "wire_bytes_sent: rank ", rank, " of ",
             send_counts.size());
  std::int64_t elements = -send_counts[static_cast<std::size_t>(rank)];
  for (const std::int64_t count : send_counts) elements += count;
  return elements * element_bytes;
}

int rounds(Collective collective, int num_ranks) {
  WEFT_CHECK(num_ranks >= 1, "rounds: ", num_ranks, " ranks");
  if (num_ranks == 1) return 0;
  if (collective == Collective::kAllReduce) return 2;
  if (collective == Collective::kBroadcast) return std::bit_width(static_cast<unsigned>(num_ranks - 1));
  return 1;
}

}  // namespace weft::comm
