// core/gpu_info.h - what the GPUs of this machine are, for people and for tables of what hardware should give.
#pragma once

#include <cstdint>
#include <string>

#include "core/device.h"

namespace weft {

struct GpuInfo {
  std::string name;         ///< "NVIDIA H100 80GB HBM3"
  std::string id;           ///< As device_id().
  std::string pci_address;  ///< "0000:1b:00.0"
  std::int64_t total_bytes = 0, free_bytes = 0;
  int compute_capability = 0;  ///< 90: 9.0
  int num_multiprocessors = 0;
};
/// Throws Error{kUnavailable} for a device this build or machine lacks, and Error{kDevice}.
[[nodiscard]] GpuInfo gpu_info(Device device);

/// What this process can still take of a GPU's memory: free bytes, and those that its own pool holds unused. Throws as
/// gpu_info().
[[nodiscard]] std::int64_t available_bytes(Device device);

/// How one GPU reaches another's memory: not at all (copies go through the host), over PCIe, or over a link that also
/// carries atomic operations, as NVLink does.
enum class PeerLink : std::uint8_t { kNone, kPcie, kNvlink };
[[nodiscard]] PeerLink peer_link(Device from, Device to);

/// "13.0" each; "" where there is none. The driver's is the newest runtime that it can serve.
struct CudaVersions {
  std::string driver, runtime;
};
[[nodiscard]] CudaVersions cuda_versions();

}  // namespace weft
