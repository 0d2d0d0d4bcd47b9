// kernels/cuda/async_copy.cuh - copies from global to shared memory that pass by the registers: a thread starts them
// and goes on. Source: PTX ISA, "Data movement and conversion instructions", cp.async (sm_80 on).
#pragma once

#include <cstdint>

namespace weft::kernels::cuda {

/// Starts a copy of kBytes (4, 8 or 16; both addresses are multiples of it); zeros instead where not `there`: `from` is
/// then not read. `to` may be read, and `from` overwritten, after a wait of this thread, by others after a barrier too.
template <int kBytes>
__device__ inline void start_copy(void* to, const void* from, bool there = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  const int read = there ? kBytes : 0;
  if constexpr (kBytes == 16)  // past L1: nobody else of this block reads it
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(address), "l"(from), "r"(read) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :
                 : "r"(address), "l"(from), "n"(kBytes), "r"(read)
                 : "memory");
}

/// Returns when all copies of this thread have arrived.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" : : : "memory"); }

}  // namespace weft::kernels::cuda
