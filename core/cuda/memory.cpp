#include "core/cuda/memory.h"

#include <limits>
#include <map>
#include <mutex>

#include "core/cuda/backend.h"
#include "core/cuda/device.h"
#include "core/cuda/handle.h"
#include "core/error.h"

namespace weft::cuda {
namespace {

/// Allocations that belong to no stream go through this one. It carries nothing else, so waiting for it costs little.
class Allocations {
 public:
  [[nodiscard]] cudaStream_t stream(Device device) {
    std::lock_guard lock(mutex_);
    StreamHandle& handle = streams_[device.index];
    if (handle.get() == nullptr) {
      cudaStream_t raw = nullptr;
      WEFT_CUDA_CHECK(cudaStreamCreateWithFlags(&raw, cudaStreamNonBlocking));
      handle = StreamHandle(raw);
    }
    return handle.get();
  }

 private:
  std::mutex mutex_;
  std::map<int, StreamHandle> streams_;
};

/// Never destroyed: memory of other statics goes back after it would be.
Allocations& allocations() {
  static auto& all = *new Allocations;
  return all;
}

void set_pool_flag(cudaMemPool_t pool, cudaMemPoolAttr attribute, int value) {
  WEFT_CUDA_CHECK(cudaMemPoolSetAttribute(pool, attribute, &value));
}

}  // namespace

void prepare_pool(int device_index) {
  static std::mutex mutex;
  static std::map<int, bool> prepared;
  std::lock_guard lock(mutex);
  if (prepared[device_index]) return;
  cudaMemPool_t pool = nullptr;
  WEFT_CUDA_CHECK(cudaDeviceGetDefaultMemPool(&pool, device_index));
  std::uint64_t threshold = std::numeric_limits<std::uint64_t>::max();
  WEFT_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  set_pool_flag(pool, cudaMemPoolReuseAllowInternalDependencies, 0);
  prepared[device_index] = true;
}

StreamBytes::StreamBytes(cudaStream_t stream, std::int64_t bytes) : stream_(stream) {
  if (bytes > 0) WEFT_CUDA_CHECK(cudaMallocAsync(&data_, static_cast<std::size_t>(bytes), stream_));
}

StreamBytes::~StreamBytes() {
  if (data_ != nullptr) static_cast<void>(cudaFreeAsync(data_, stream_));
}

void* allocate(Device device, std::int64_t bytes, MemoryPlace place) {
  require(device);
  const DeviceScope scope(device);
  void* data = nullptr;
  const auto size = static_cast<std::size_t>(bytes);
  if (place == MemoryPlace::kPinned) {
    WEFT_CUDA_CHECK(cudaHostAlloc(&data, size, cudaHostAllocPortable | cudaHostAllocMapped));
    return data;
  }
  prepare_pool(device.index);
  const cudaStream_t stream = allocations().stream(device);
  try {
    WEFT_CUDA_CHECK(cudaMallocAsync(&data, size, stream));
    WEFT_CUDA_CHECK(cudaStreamSynchronize(stream));  // the memory is any stream's from here on
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    throw Error(ErrorCode::kOutOfMemory, str("no ", bytes, " bytes of memory on GPU ", device.index), error.hint());
  }
  return data;
}

void deallocate(Device device, void* data, MemoryPlace place) noexcept {
  try {
    if (place == MemoryPlace::kPinned) {
      static_cast<void>(cudaFreeHost(data));
      return;
    }
    const DeviceScope scope(device);
    static_cast<void>(cudaFreeAsync(data, allocations().stream(device)));
  } catch (const Error&) {
    // a lost context, or the runtime gone at exit: the memory is gone with it
  }
}

void copy(Stream& stream, void* to, const void* from, std::int64_t bytes) {
  WEFT_CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDefault,
                                  static_cast<cudaStream_t>(stream.native())));
}

}  // namespace weft::cuda
