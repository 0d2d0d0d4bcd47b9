// tests/support/cuda/cuda_runtime_api.h - a stand-in for the CUDA runtime that runs on the host, so that the code of
// core/cuda and kernels/cuda runs in tests on machines without a GPU. Compiled as plain C++ with this folder in front
// of the include path. A stream is a thread with a queue; a block's threads are coroutines that change at barriers and
// shuffles, in one of three orders (WEFT_EMULATION_ORDER, see machine.cpp): what reads before a barrier that is missing
// gets the wrong value in one of them. Device memory starts as NaN. Only what Weft uses is here, and only what tests
// can see: no memory model, no limits of registers, no speed. Names and meanings: CUDA Runtime API reference.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <tuple>

#include "tests/support/cuda/machine.h"

enum cudaError_t {
  cudaSuccess,
  cudaErrorMemoryAllocation,
  cudaErrorNoDevice,
  cudaErrorInvalidDevice,
  cudaErrorInvalidValue,
  cudaErrorInsufficientDriver,
  cudaErrorSystemDriverMismatch,
  cudaErrorSystemNotReady,
  cudaErrorDevicesUnavailable,
  cudaErrorNoKernelImageForDevice,
  cudaErrorUnsupportedPtxVersion,
  cudaErrorStubLibrary,
  cudaErrorIllegalAddress,
  cudaErrorLaunchFailure,
  cudaErrorLaunchTimeout,
  cudaErrorAssert,
  cudaErrorHardwareStackError,
  cudaErrorIllegalInstruction,
  cudaErrorMisalignedAddress,
  cudaErrorInvalidAddressSpace,
  cudaErrorInvalidPc,
  cudaErrorECCUncorrectable,
  cudaErrorNvlinkUncorrectable,
  cudaErrorMpsClientTerminated,
  cudaErrorContextIsDestroyed,
  cudaErrorNotReady,
  cudaErrorInvalidResourceHandle,
  cudaErrorStreamCaptureUnsupported,
  cudaErrorStreamCaptureInvalidated,
  cudaErrorStreamCaptureIsolation,
  cudaErrorCapturedEvent
};
enum cudaMemPoolAttr {
  cudaMemPoolAttrReleaseThreshold,
  cudaMemPoolReuseAllowInternalDependencies,
  cudaMemPoolAttrReservedMemCurrent,
  cudaMemPoolAttrUsedMemCurrent
};
enum cudaMemcpyKind { cudaMemcpyDefault };
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess, cudaDriverEntryPointSymbolNotFound };
inline constexpr unsigned cudaStreamNonBlocking = 1, cudaEventDefault = 0, cudaEventDisableTiming = 2,
                          cudaEventBlockingSync = 1, cudaEventRecordDefault = 0, cudaEventRecordExternal = 1,
                          cudaHostAllocPortable = 1, cudaHostAllocMapped = 2;
inline constexpr unsigned long long cudaEnableDefault = 0, cudaGraphInstantiateFlagUseNodePriority = 8;
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
using cudaStream_t = weft::emulation::Queue*;
using cudaEvent_t = weft::emulation::Mark*;
using cudaMemPool_t = void*;
using cudaGraph_t = std::shared_ptr<weft::emulation::Graph>*;
using cudaGraphExec_t = std::shared_ptr<weft::emulation::Graph>*;
using cudaLaunchConfig_t = weft::emulation::LaunchConfig;
using dim3 = weft::emulation::Dim;

struct cudaUUID_t {
  char bytes[16];
};
struct cudaDeviceProp {
  char name[256];
  cudaUUID_t uuid;
  int major, minor, multiProcessorCount;
};
enum cudaDeviceP2PAttr { cudaDevP2PAttrNativeAtomicSupported };
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {"an emulated GPU", {"of this process"}, 9, 0, 1};
  properties->uuid.bytes[15] = static_cast<char>(device);
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  std::snprintf(text, static_cast<std::size_t>(length), "0000:%02x:00.0", static_cast<unsigned>(device));
  return cudaSuccess;
}
inline cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
  *total_bytes = weft::emulation::device_bytes();
  const std::size_t used = weft::emulation::device_bytes_in_use(weft::emulation::current_device());
  return *free_bytes = used < *total_bytes ? *total_bytes - used : 0, cudaSuccess;
}
inline cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr, int, int) {
  return *value = 0, cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 13010, cudaSuccess; }

inline const char* cudaGetErrorName(cudaError_t status) { return status == cudaSuccess ? "cudaSuccess" : "cudaError"; }
inline const char* cudaGetErrorString(cudaError_t) { return "an error of the emulated GPU"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = weft::emulation::num_devices(), cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = weft::emulation::current_device(), cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= weft::emulation::num_devices()) return cudaErrorInvalidDevice;
  return weft::emulation::set_current_device(device), cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = weft::emulation::shared_limit(), cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return value <= weft::emulation::shared_limit() ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  return *lowest = 0, *highest = -5, cudaSuccess;
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return *stream = new weft::emulation::Queue, cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
/// What a thread may not call while it captures; what it captures is spoilt then.
inline cudaError_t refuse_in_capture(cudaStream_t stream) {
  if (stream->capture() == nullptr) return cudaSuccess;
  return stream->capture()->spoil(), cudaErrorStreamCaptureUnsupported;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t status = refuse_in_capture(stream); status != cudaSuccess) return status;
  return stream->drain(), cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return *event = new weft::emulation::Mark((flags & cudaEventDisableTiming) == 0), cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event->device() != stream->device()) return cudaErrorInvalidResourceHandle;
  if (stream->capture() != nullptr) return event->record_in(*stream->capture(), *stream), cudaSuccess;
  stream->push([point = event->renew()] { point->reach(); });
  return cudaSuccess;
}
inline cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  if (flags == cudaEventRecordDefault) return cudaEventRecord(event, stream);
  if (event->device() != stream->device()) return cudaErrorInvalidResourceHandle;
  if (stream->capture() == nullptr) return cudaErrorInvalidValue;
  stream->push([event] { event->renew()->reach(); });  // at each launch
  return cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->capture() != nullptr) return cudaErrorCapturedEvent;
  if (weft::emulation::is_capturing()) return cudaErrorStreamCaptureUnsupported;
  return event->point()->reached() ? cudaSuccess : cudaErrorNotReady;
}
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  if (!start->timed() || !end->timed()) return cudaErrorInvalidResourceHandle;
  if (start->capture() != nullptr || end->capture() != nullptr) return cudaErrorCapturedEvent;
  if (!start->point()->reached() || !end->point()->reached()) return cudaErrorNotReady;
  return *ms = static_cast<float>(end->point()->ms_since(*start->point())), cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->capture() != nullptr) return cudaErrorCapturedEvent;
  return event->point()->wait(), cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event) {
  if (event->capture() != nullptr) {
    if (stream->capture() != nullptr && stream->capture() != event->capture()) return cudaErrorStreamCaptureIsolation;
    return event->capture()->wait(*stream, event->places()), cudaSuccess;
  }
  if (stream->capture() != nullptr) return stream->capture()->spoil(), cudaErrorStreamCaptureIsolation;
  stream->push([point = event->point()] { point->wait(); });
  return cudaSuccess;
}

/// The pool of a device is its number, from 1 on. It holds nothing back.
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int device) {
  return *pool = reinterpret_cast<cudaMemPool_t>(static_cast<std::uintptr_t>(device) + 1), cudaSuccess;
}
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
inline cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t pool, cudaMemPoolAttr, void* value) {
  const auto device = static_cast<int>(reinterpret_cast<std::uintptr_t>(pool) - 1);
  const std::uint64_t used = weft::emulation::device_bytes_in_use(device);
  return std::memcpy(value, &used, sizeof used), cudaSuccess;
}
inline cudaError_t cudaMallocAsync(void** data, std::size_t bytes, cudaStream_t stream) {
  if (stream->capture() != nullptr)
    return *data = stream->capture()->allocate(*stream, bytes),
           *data != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
  *data = weft::emulation::allocate_device_bytes(stream->device(), bytes);
  if (*data == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*data, 0xff, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  if (stream->capture() != nullptr) {
    if (stream->capture()->free(*stream, data)) return cudaSuccess;
    return stream->capture()->spoil(), cudaErrorInvalidValue;
  }
  stream->push([data] { weft::emulation::free_device_bytes(data); });
  return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** data, std::size_t bytes, unsigned) {
  constexpr std::size_t kAlignment = 256;
  if (weft::emulation::is_capturing()) return cudaErrorStreamCaptureUnsupported;
  *data = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (*data == nullptr) return cudaErrorMemoryAllocation;
  std::memset(*data, 0xff, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* data) { return std::free(data), cudaSuccess; }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  stream->push([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t stream) {
  stream->push([=] { std::memset(data, value, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                                     std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidValue;
  stream->push([=] {
    for (std::size_t i = 0; i < height; ++i)
      std::memcpy(static_cast<char*>(to) + i * to_pitch, static_cast<const char*>(from) + i * from_pitch, width);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemset2DAsync(void* data, std::size_t pitch, int value, std::size_t width, std::size_t height,
                                     cudaStream_t stream) {
  if (width > pitch) return cudaErrorInvalidValue;
  stream->push([=] {
    for (std::size_t i = 0; i < height; ++i) std::memset(static_cast<char*>(data) + i * pitch, value, width);
  });
  return cudaSuccess;
}

// graphs
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream->capture() != nullptr) return cudaErrorStreamCaptureUnsupported;
  stream->drain();  // what came before stays outside
  return static_cast<void>(new weft::emulation::Capture(*stream)), cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::unique_ptr<weft::emulation::Capture> capture(stream->capture());
  *graph = nullptr;
  if (!capture) return cudaErrorInvalidValue;
  auto made = capture->end(*stream);
  if (!made) return cudaErrorStreamCaptureInvalidated;
  return *graph = new std::shared_ptr(std::move(made)), cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  int device = 0;
  static_cast<void>(cudaGetDevice(&device));
  if (weft::emulation::no_graphs_on == device) return cudaErrorStreamCaptureUnsupported;
  return *exec = new std::shared_ptr(*graph), cudaSuccess;
}
inline cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaDeviceGraphMemTrim(int) { return cudaSuccess; }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  stream->push([graph = *exec] { graph->run(); });
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }

// cuda.h: the one function of the driver that core/cuda/relay.cpp looks up
using CUresult = int;
using CUstream = cudaStream_t;
using CUdeviceptr = unsigned long long;
using cuuint32_t = std::uint32_t;
inline constexpr CUresult CUDA_SUCCESS = 0;
inline constexpr unsigned CU_STREAM_WAIT_VALUE_GEQ = 0;
inline cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
  CUresult (*wait)(CUstream, CUdeviceptr, cuuint32_t, unsigned) = [](CUstream stream, CUdeviceptr data,
                                                                     cuuint32_t value, unsigned) -> CUresult {
    stream->push([=] {
      const std::atomic_ref now(*reinterpret_cast<std::uint32_t*>(data));
      while (static_cast<std::int32_t>(now.load() - value) < 0)
        std::this_thread::sleep_for(std::chrono::microseconds(20));
    });
    return CUDA_SUCCESS;
  };
  *function = reinterpret_cast<void*>(wait);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// kernels
#define __global__
#define __device__
#define __shared__ thread_local
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
#define threadIdx (weft::emulation::this_thread_index())
#define blockIdx (weft::emulation::grid().block)
#define __syncthreads() weft::emulation::block_barrier()
#define __syncwarp() weft::emulation::warp_barrier()
#define __shfl_xor_sync(lanes, value, step) weft::emulation::shuffle_xor(value, step)
#define __ballot_sync(lanes, value) weft::emulation::ballot(value)
#define __match_any_sync(lanes, value) weft::emulation::match_any(value)
#define __popc(bits) __builtin_popcount(bits)
template <class T>
T atomicAdd(T* to, T value) {
  return std::atomic_ref(*to).fetch_add(value);
}

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  if (!config->is_valid()) return cudaErrorInvalidValue;
  if (config->stream->device() != weft::emulation::current_device()) return cudaErrorInvalidResourceHandle;
  config->stream->push([config = *config, kernel, arguments = std::tuple<std::decay_t<Params>...>(args...)] {
    weft::emulation::run_grid(config, [&] { std::apply(kernel, arguments); });
  });
  return cudaSuccess;
}
