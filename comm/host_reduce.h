// comm/host_reduce.h - the arithmetic of reductions on host memory, shared by the host backends.
#pragma once

#include <cstdint>
#include <span>

#include "comm/communicator.h"

namespace weft::comm {

/// out[i] = ((x_0[i] op x_1[i]) op x_2[i]) ... for x_r = sources[r], r in [0, P), each [count] of `dtype` (F32, F64,
/// I32, I64; others throw Error{kInternal}). `out` may be one of the sources.
void reduce_in_rank_order(void* out, std::span<const void* const> sources, std::int64_t count, DType dtype,
                          ReduceOp op);

}  // namespace weft::comm
