// tests/support/cuda/kernels/cuda/mma.cuh - stands in for kernels/cuda/mma.cuh on the emulated GPU. Written from the
// tables of the PTX ISA, not from the kernels that use it.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>

#include "core/bf16.h"
#include "tests/support/cuda/machine.h"

namespace weft::emulation {

/// What every lane of the warp put in, in order of lanes.
template <class T>
std::array<T, kWarpLanes> all_lanes(T mine) {
  static_assert(sizeof(T) <= kExchangeBytes);
  std::memcpy(exchange_slot(this_thread_index().x % kWarpLanes), &mine, sizeof mine);
  warp_barrier();
  std::array<T, kWarpLanes> all;
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) std::memcpy(&all[lane], exchange_slot(lane), sizeof mine);
  warp_barrier();
  return all;
}
inline float half_of(std::uint32_t pair, unsigned which) {
  return BF16::from_bits(static_cast<std::uint16_t>(which == 0 ? pair : pair >> 16));
}
inline std::uint32_t pair_of(BF16 first, BF16 second) {
  return static_cast<std::uint32_t>(second.bits()) << 16 | first.bits();
}

}  // namespace weft::emulation

namespace weft::kernels::cuda {

inline void multiply_add(float (&sum)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  using namespace weft::emulation;
  struct Registers {
    std::uint32_t a[4], b[2];
  };
  const auto lanes = all_lanes(Registers{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}});
  float left[16][16], right[16][8];
  for (unsigned lane = 0; lane < kWarpLanes; ++lane)
    for (unsigned h = 0; h < 2; ++h) {
      const unsigned line = lane / 4, pair = lane % 4 * 2 + h;
      for (unsigned i = 0; i < 4; ++i)
        left[line + (i % 2 == 1 ? 8 : 0)][pair + (i >= 2 ? 8 : 0)] = half_of(lanes[lane].a[i], h);
      for (unsigned i = 0; i < 2; ++i) right[pair + 8 * i][line] = half_of(lanes[lane].b[i], h);
    }
  const unsigned lane = this_thread_index().x % kWarpLanes;
  for (unsigned i = 0; i < 4; ++i)
    for (unsigned k = 0; k < 16; ++k) sum[i] += left[lane / 4 + (i >= 2 ? 8 : 0)][k] * right[k][lane % 4 * 2 + i % 2];
}

inline void load_matrices_as(std::uint32_t (&out)[4], const BF16* row, bool transposed) {
  using namespace weft::emulation;
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) std::abort();  // the hardware's rule
  const auto rows = all_lanes(row);
  const unsigned lane = this_thread_index().x % kWarpLanes, line = lane / 4, pair = lane % 4 * 2;
  for (unsigned i = 0; i < 4; ++i) {
    const BF16* const* matrix = &rows[8 * i];
    out[i] = transposed ? pair_of(matrix[pair][line], matrix[pair + 1][line])
                        : pair_of(matrix[line][pair], matrix[line][pair + 1]);
  }
}
inline void load_matrices(std::uint32_t (&out)[4], const BF16* row) { load_matrices_as(out, row, false); }
inline void load_matrices_transposed(std::uint32_t (&out)[4], const BF16* row) { load_matrices_as(out, row, true); }

}  // namespace weft::kernels::cuda
