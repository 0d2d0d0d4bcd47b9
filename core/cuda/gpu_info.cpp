// core/cuda/gpu_info.cpp - the runtime's own words on GPUs.
#include "core/gpu_info.h"

#include <cuda_runtime_api.h>

#include <array>

#include "core/cuda/device.h"
#include "core/cuda/handle.h"
#include "core/error.h"

namespace weft {
namespace {

std::string version_text(int version) {
  return version == 0 ? std::string() : str(version / 1000, ".", version % 1000 / 10);
}

}  // namespace

GpuInfo gpu_info(Device device) {
  cuda::require(device);
  const cuda::DeviceScope scope(device);
  cudaDeviceProp properties{};
  WEFT_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.index));
  std::array<char, 32> pci{};
  WEFT_CUDA_CHECK(cudaDeviceGetPCIBusId(pci.data(), static_cast<int>(pci.size()), device.index));
  std::size_t free_bytes = 0, total_bytes = 0;
  WEFT_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  GpuInfo info;
  info.name = properties.name;
  info.id = device_id(device);
  info.pci_address = pci.data();
  info.total_bytes = static_cast<std::int64_t>(total_bytes);
  info.free_bytes = static_cast<std::int64_t>(free_bytes);
  info.compute_capability = 10 * properties.major + properties.minor;
  info.num_multiprocessors = properties.multiProcessorCount;
  return info;
}

std::int64_t available_bytes(Device device) {
  cuda::require(device);
  const cuda::DeviceScope scope(device);
  std::size_t free_bytes = 0, total_bytes = 0;
  WEFT_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  cudaMemPool_t pool = nullptr;
  WEFT_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device.index));
  std::uint64_t reserved = 0, used = 0;
  WEFT_CUDA_CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved));
  WEFT_CUDA_CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used));
  return static_cast<std::int64_t>(free_bytes + (reserved - used));
}

PeerLink peer_link(Device from, Device to) {
  cuda::require(from);
  cuda::require(to);
  int can = 0, atomics = 0;
  WEFT_CUDA_CHECK(cudaDeviceCanAccessPeer(&can, from.index, to.index));
  if (can == 0) return PeerLink::kNone;
  WEFT_CUDA_CHECK(cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, from.index, to.index));
  return atomics != 0 ? PeerLink::kNvlink : PeerLink::kPcie;
}

CudaVersions cuda_versions() {
  int driver = 0, runtime = 0;
  WEFT_CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
  if (cudaDriverGetVersion(&driver) != cudaSuccess) {
    driver = 0;
    static_cast<void>(cudaGetLastError());
  }
  return {version_text(driver), version_text(runtime)};
}

}  // namespace weft
