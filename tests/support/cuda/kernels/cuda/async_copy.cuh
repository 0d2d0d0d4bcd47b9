// tests/support/cuda/kernels/cuda/async_copy.cuh - stands in for kernels/cuda/async_copy.cuh on the emulated GPU. Until
// the wait for a copy its destination holds NaN: who reads too early, or starts a copy into what is still read, sees
// it.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/support/cuda/machine.h"

namespace weft::emulation {

struct Copy {
  void* to;
  const void* from;  // null: zeros
  std::size_t bytes;
};
/// The copies of a thread that have not arrived.
struct Copies {
  std::uint64_t turn = 0;
  std::vector<Copy> list;
};
inline Copies& copies_of_thread() {
  thread_local std::array<Copies, 1024> of_thread;
  Copies& mine = of_thread[this_thread_index().x];
  if (mine.turn != grid().turn && !mine.list.empty()) std::abort();  // another block ended before its copies arrived
  mine.turn = grid().turn;
  return mine;
}

}  // namespace weft::emulation

namespace weft::kernels::cuda {

template <int kBytes>
inline void start_copy(void* to, const void* from, bool there = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const auto misaligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % kBytes != 0; };
  if (misaligned(to) || misaligned(from)) std::abort();  // the hardware's rule
  std::memset(to, 0xff, kBytes);
  weft::emulation::copies_of_thread().list.push_back({to, there ? from : nullptr, kBytes});
}

inline void wait_for_copies() {
  auto& copies = weft::emulation::copies_of_thread().list;
  for (const weft::emulation::Copy& copy : copies)
    if (copy.from != nullptr)
      std::memcpy(copy.to, copy.from, copy.bytes);
    else
      std::memset(copy.to, 0, copy.bytes);
  copies.clear();
}

}  // namespace weft::kernels::cuda
