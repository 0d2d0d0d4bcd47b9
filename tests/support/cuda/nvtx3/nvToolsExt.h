// tests/support/cuda/nvtx3/nvToolsExt.h - ranges of the emulated GPU: the names that are open on this thread.
#pragma once

#include <string>
#include <vector>

namespace weft::emulation {
inline thread_local std::vector<std::string> open_ranges;
}

inline int nvtxRangePushA(const char* name) {
  weft::emulation::open_ranges.emplace_back(name);
  return static_cast<int>(weft::emulation::open_ranges.size()) - 1;
}
inline int nvtxRangePop() {
  weft::emulation::open_ranges.pop_back();
  return static_cast<int>(weft::emulation::open_ranges.size());
}
