// core/cuda/backend.h - what core needs from the CUDA backend; no_cuda.cpp answers in builds without it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/memory.h"
#include "core/recording.h"
#include "core/stream.h"
#include "core/stream_clock.h"

namespace weft::cuda {

[[nodiscard]] bool is_available() noexcept;
[[nodiscard]] std::string why_unavailable();
[[nodiscard]] int num_devices() noexcept;
[[nodiscard]] std::string device_id(Device device);
[[nodiscard]] void* allocate(Device device, std::int64_t bytes, MemoryPlace place);
void deallocate(Device device, void* data, MemoryPlace place) noexcept;
void copy(Stream& stream, void* to, const void* from, std::int64_t bytes);
[[nodiscard]] std::unique_ptr<Stream> make_stream(Device device, std::string_view name, StreamPriority priority);
[[nodiscard]] std::unique_ptr<StreamClock> make_stream_clock(Device device, std::size_t num_points);
[[nodiscard]] std::unique_ptr<Recording> record(std::span<Stream* const> streams, const std::function<void()>& work);
void open_range(const char* name) noexcept;
void close_range() noexcept;

}  // namespace weft::cuda
