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

}  // namespace weft::comm
