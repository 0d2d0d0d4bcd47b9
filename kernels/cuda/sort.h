// kernels/cuda/sort.h - sorting by id: whoever adds up what has one id sorts keys (id, place) and goes through them in
// order.
#pragma once

#include <cstdint>

#include "core/stream.h"

namespace weft::kernels::cuda {

constexpr std::uint64_t kNoKey = ~std::uint64_t{0};  ///< Sorts last.
constexpr int kIdShift = 32;                         ///< Bits of a key below its id: the place.

/// sorted = keys in order of their ids, which are below num_ids; keys of one id keep their order. [count], on the
/// stream's device, not the same memory.
void sort_by_id(Stream& stream, std::uint64_t* sorted, const std::uint64_t* keys, std::int64_t count,
                std::int64_t num_ids);

}  // namespace weft::kernels::cuda
