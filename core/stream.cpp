#include "core/stream.h"

#include "core/cpu/backend.h"
#include "core/cuda/backend.h"

namespace weft {

bool is_available(DeviceKind kind) noexcept { return kind == DeviceKind::kCpu || cuda::is_available(); }

std::string why_unavailable(DeviceKind kind) {
  return kind == DeviceKind::kCpu ? std::string() : cuda::why_unavailable();
}

int num_devices(DeviceKind kind) noexcept { return kind == DeviceKind::kCpu ? 1 : cuda::num_devices(); }

std::string device_id(Device device) {
  return device.kind == DeviceKind::kCpu ? std::string() : cuda::device_id(device);
}

std::unique_ptr<Stream> make_stream(Device device, std::string_view name, StreamPriority priority) {
  return device.kind == DeviceKind::kCpu ? cpu::make_stream(device, name, priority)
                                         : cuda::make_stream(device, name, priority);
}

std::unique_ptr<Stream> make_inline_stream() { return cpu::make_inline_stream(); }

}  // namespace weft
