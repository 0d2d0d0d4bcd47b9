// core/cpu/backend.h - the CPU half of core/stream.h and core/stream_clock.h.
#pragma once

#include <memory>
#include <string_view>

#include "core/stream.h"
#include "core/stream_clock.h"

namespace weft::cpu {

[[nodiscard]] std::unique_ptr<Stream> make_stream(Device device, std::string_view name, StreamPriority priority);
[[nodiscard]] std::unique_ptr<Stream> make_inline_stream();
[[nodiscard]] std::unique_ptr<StreamClock> make_stream_clock(std::size_t num_points);

}  // namespace weft::cpu
