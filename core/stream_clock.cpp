#include "core/stream_clock.h"

#include "core/cpu/backend.h"
#include "core/cuda/backend.h"

namespace weft {

std::unique_ptr<StreamClock> make_stream_clock(Device device, std::size_t num_points) {
  return device.kind == DeviceKind::kCpu ? cpu::make_stream_clock(num_points)
                                         : cuda::make_stream_clock(device, num_points);
}

LaunchRange::LaunchRange(const char* name) : open_(name != nullptr) {
  if (open_) cuda::open_range(name);
}

LaunchRange::~LaunchRange() {
  if (open_) cuda::close_range();
}

}  // namespace weft
