// kernels/cuda/mma.cuh - products of small BF16 matrices on tensor cores, by all 32 lanes of a warp. Source: PTX ISA,
// "Warp-level matrix instructions", mma.m16n8k16 and ldmatrix (sm_80 on). With g = lane / 4 and c = 2 (lane % 4), a
// lane holds pairs of neighbouring elements, the first in the lower half of a register:
//   a [16, 16]: (g, c) (g + 8, c) (g, c + 8) (g + 8, c + 8)      b [16, 8]: (c .. c + 1, g) (c + 8 .. c + 9, g)
//   sum [16, 8]: (g, c) (g, c + 1) (g + 8, c) (g + 8, c + 1)
#pragma once

#include <cstdint>

#include "core/bf16.h"

namespace weft::kernels::cuda {

/// sum += a b.
__device__ inline void multiply_add(float (&sum)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 matrices from shared memory; lane 8 i + r gives the address of row r of matrix i, 16 bytes, aligned. Of
/// each matrix the lane gets (lane / 4, c .. c + 1).
__device__ inline void load_matrices(std::uint32_t (&out)[4], const BF16* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}
/// The same, transposed: (c .. c + 1, lane / 4).
__device__ inline void load_matrices_transposed(std::uint32_t (&out)[4], const BF16* row) {
  const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

}  // namespace weft::kernels::cuda
