// core/cuda/device.h - which GPUs are here, and the current one of a thread.
#pragma once

#include <string>

#include "core/device.h"

namespace weft::cuda {

/// Throws Error{kUnavailable} with the runtime's reason when there is no such GPU.
void require(Device device);

/// Makes `device` the thread's current one for a scope: the runtime allocates and launches on the current device.
class DeviceScope {
 public:
  explicit DeviceScope(Device device);
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  ~DeviceScope();

 private:
  int before_ = 0;
};

}  // namespace weft::cuda
