// core/cuda/handle.h - move-only owners of CUDA handles, and the check around every runtime call.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

namespace weft::cuda {

/// Throws Error naming `call`: kOutOfMemory, kUnavailable (no device, driver missing or too old), else kDevice. An
/// error that the runtime reports again at every later call ("sticky": the context is lost) is called so. Reads the
/// last error too, so that one that is not sticky does not surface again in the next check.
void check(cudaError_t status, const char* call, const char* file = __builtin_FILE(), int line = __builtin_LINE());
#define WEFT_CUDA_CHECK(call) ::weft::cuda::check((call), #call)

/// True when no call of this process can succeed after `status`: kernels that read out of bounds, traps, ECC errors.
[[nodiscard]] bool is_sticky(cudaError_t status) noexcept;

/// Owns one handle. Destroy may fail: the status is dropped, since a destructor must not throw and, at process exit,
/// the runtime is often gone first (cudaErrorCudartUnloading).
template <class T, auto Destroy>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T raw) noexcept : raw_(raw) {}
  Handle(Handle&& other) noexcept : raw_(std::exchange(other.raw_, T{})) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(raw_, other.raw_);
    return *this;
  }
  ~Handle() {
    if (raw_ != T{}) static_cast<void>(Destroy(raw_));
  }
  [[nodiscard]] T get() const noexcept { return raw_; }

 private:
  T raw_{};
};

using StreamHandle = Handle<cudaStream_t, cudaStreamDestroy>;
using EventHandle = Handle<cudaEvent_t, cudaEventDestroy>;

}  // namespace weft::cuda
