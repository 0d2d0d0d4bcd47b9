// core/cuda/memory.h - scratch memory in stream order.
// Source: "Stream Ordered Memory Allocator", CUDA C++ Programming Guide. The driver's pool is the cache: it knows what
// streams and events order, can be captured into a graph, and needs no second allocator beside it that would have to be
// proved right. Its release threshold is unlimited (memory goes back to the system only when the process ends or runs
// out), and it may not make one stream wait for another to reuse memory: schedules decide what waits.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace weft::cuda {

/// Sets up the pool of the current device, once.
void prepare_pool(int device_index);

/// Uninitialised bytes that a stream's later work may use until this object dies; the memory then goes back once that
/// work is done. Nothing waits, on either end. The stream's device is the current one. Throws Error{kOutOfMemory}.
class StreamBytes {
 public:
  StreamBytes(cudaStream_t stream, std::int64_t bytes);
  StreamBytes(const StreamBytes&) = delete;
  StreamBytes& operator=(const StreamBytes&) = delete;
  ~StreamBytes();
  [[nodiscard]] void* data() const noexcept { return data_; }

 private:
  cudaStream_t stream_;
  void* data_ = nullptr;
};

/// The same for `count` elements.
template <class T>
class StreamScratch {
 public:
  StreamScratch(cudaStream_t stream, std::int64_t count)
      : bytes_(stream, count * static_cast<std::int64_t>(sizeof(T))) {}
  [[nodiscard]] T* data() const noexcept { return static_cast<T*>(bytes_.data()); }

 private:
  StreamBytes bytes_;
};

}  // namespace weft::cuda
