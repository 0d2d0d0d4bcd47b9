// core/cpu/backend.h - the CPU half of core/stream.h.
#pragma once

#include <memory>
#include <string_view>

#include "core/stream.h"

namespace weft::cpu {

[[nodiscard]] std::unique_ptr<Stream> make_stream(Device device, std::string_view name, StreamPriority priority);
[[nodiscard]] std::unique_ptr<Stream> make_inline_stream();

}  // namespace weft::cpu
