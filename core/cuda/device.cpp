#include "core/cuda/device.h"

#include <cuda_runtime_api.h>

#include <string_view>

#include "core/cuda/backend.h"
#include "core/cuda/handle.h"
#include "core/error.h"
#include "core/log.h"

namespace weft::cuda {
namespace {

struct Machine {
  int num_devices = 0;
  std::string why;  // there are none
};

/// Asked once: the answer does not change in a process, and asking without a driver is slow.
const Machine& machine() {
  static const Machine found = [] {
    Machine m;
    const cudaError_t status = cudaGetDeviceCount(&m.num_devices);
    if (status != cudaSuccess) {
      m.num_devices = 0;
      m.why = str("no GPU: cudaGetDeviceCount: ", cudaGetErrorString(status));
      static_cast<void>(cudaGetLastError());
    } else if (m.num_devices == 0) {
      m.why = "no GPU: cudaGetDeviceCount counts none";
    }
    if (m.num_devices == 0) log()->info("{}; computing on the CPU", m.why);
    return m;
  }();
  return found;
}

}  // namespace

bool is_available() noexcept { return machine().num_devices > 0; }
std::string why_unavailable() { return machine().why; }

int num_devices() noexcept { return machine().num_devices; }

std::string device_id(Device device) {
  require(device);
  cudaDeviceProp properties{};
  WEFT_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index));
  std::string id = "GPU-";
  constexpr std::string_view kDigits = "0123456789abcdef";
  for (const char c : properties.uuid.bytes) {
    const auto byte = static_cast<unsigned char>(c);
    id += kDigits[byte >> 4U];
    id += kDigits[byte & 15U];
  }
  return id;
}

void require(Device device) {
  const Machine& m = machine();
  if (m.num_devices == 0) throw Error(ErrorCode::kUnavailable, m.why, "use the CPU backend");
  if (device.index < 0 || device.index >= m.num_devices)
    throw Error(ErrorCode::kUnavailable, str("no GPU ", device.index, ": this machine has ", m.num_devices),
                "start at most one rank a GPU; CUDA_VISIBLE_DEVICES hides GPUs");
}

DeviceScope::DeviceScope(Device device) {
  WEFT_CUDA_CHECK(cudaGetDevice(&before_));
  if (before_ != device.index)
    WEFT_CUDA_CHECK(cudaSetDevice(device.index));
  else
    before_ = -1;
}

DeviceScope::~DeviceScope() {
  if (before_ >= 0) static_cast<void>(cudaSetDevice(before_));
}

}  // namespace weft::cuda
