// core/cuda/backend.h - what core needs from the CUDA backend; no_cuda.cpp answers in builds without it.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "core/stream.h"

namespace weft::cuda {

[[nodiscard]] bool is_available() noexcept;
[[nodiscard]] void* allocate(Device device, std::int64_t bytes);
void deallocate(Device device, void* data) noexcept;
[[nodiscard]] std::unique_ptr<Stream> make_stream(Device device, std::string_view name, StreamPriority priority);

}  // namespace weft::cuda
