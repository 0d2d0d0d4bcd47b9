#include "core/cuda/handle.h"

#include <algorithm>
#include <array>

#include "core/error.h"

namespace weft::cuda {
namespace {

ErrorCode code_of(cudaError_t status) {
  switch (status) {
    case cudaErrorMemoryAllocation:
      return ErrorCode::kOutOfMemory;
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorStubLibrary:
      return ErrorCode::kUnavailable;
    default:
      return ErrorCode::kDevice;
  }
}

const char* hint_of(cudaError_t status) {
  if (is_sticky(status)) return "the GPU context of this process is lost: start the process again";
  switch (status) {
    case cudaErrorMemoryAllocation:
      return "use a smaller micro_batch, recompute, or more ranks; `weft train --dry_run` shows where memory goes";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return "build with -DWEFT_CUDA_ARCHITECTURES for this GPU, e.g. 80 for A100, 90 for H100";
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
      return "update the driver, or build with an older CUDA toolkit";
    default:
      return "";
  }
}

}  // namespace

bool is_sticky(cudaError_t status) noexcept {
  constexpr std::array kSticky = {cudaErrorIllegalAddress,      cudaErrorLaunchFailure,
                                  cudaErrorLaunchTimeout,       cudaErrorAssert,
                                  cudaErrorHardwareStackError,  cudaErrorIllegalInstruction,
                                  cudaErrorMisalignedAddress,   cudaErrorInvalidAddressSpace,
                                  cudaErrorInvalidPc,           cudaErrorECCUncorrectable,
                                  cudaErrorNvlinkUncorrectable, cudaErrorMpsClientTerminated,
                                  cudaErrorContextIsDestroyed};
  return std::find(kSticky.begin(), kSticky.end(), status) != kSticky.end();
}

void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());
  throw Error(code_of(status),
              str(call, ": ", cudaGetErrorName(status), ", ", cudaGetErrorString(status),
                  is_sticky(status) ? " (an earlier kernel failed; every later call fails too)" : ""),
              hint_of(status), file, line);
}

}  // namespace weft::cuda
