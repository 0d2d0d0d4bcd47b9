// kernels/cuda/pointers.h - pointers from the host to memory of the device.
#pragma once

#include <span>

#include "core/stream.h"

namespace weft::kernels::cuda {

/// to[i] = pointers[i]. They travel as arguments of kernels, so `pointers` may die when the call returns.
void write_pointers(Stream& stream, const void** to, std::span<const void* const> pointers);

}  // namespace weft::kernels::cuda
