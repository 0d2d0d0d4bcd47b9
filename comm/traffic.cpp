#include "comm/traffic.h"

namespace weft::comm {

std::vector<std::int64_t> Traffic::sent_bytes() const {
  std::vector<std::int64_t> out;
  out.reserve(sent_bytes_.size());
  for (const auto& bytes : sent_bytes_) out.push_back(bytes.load(std::memory_order_relaxed));
  return out;
}

std::array<std::int64_t, kNumCollectives> Traffic::by_collective() const {
  std::array<std::int64_t, kNumCollectives> out{};
  for (std::size_t c = 0; c < out.size(); ++c) out[c] = by_collective_[c].load(std::memory_order_relaxed);
  return out;
}

Traffic::Snapshot operator-(const Traffic::Snapshot& a, const Traffic::Snapshot& b) {
  Traffic::Snapshot out = a;
  for (std::size_t r = 0; r < out.sent_bytes.size(); ++r) out.sent_bytes[r] -= b.sent_bytes[r];
  for (std::size_t c = 0; c < out.by_collective.size(); ++c) out.by_collective[c] -= b.by_collective[c];
  return out;
}

void Traffic::add(const Snapshot& difference) noexcept {
  for (std::size_t r = 0; r < sent_bytes_.size(); ++r)
    sent_bytes_[r].fetch_add(difference.sent_bytes[r], std::memory_order_relaxed);
  for (std::size_t c = 0; c < by_collective_.size(); ++c)
    by_collective_[c].fetch_add(difference.by_collective[c], std::memory_order_relaxed);
}

}  // namespace weft::comm
