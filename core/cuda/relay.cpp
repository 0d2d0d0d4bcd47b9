#include "core/cuda/relay.h"

#include <cuda.h>

#include <atomic>
#include <exception>
#include <utility>

#include "core/cpu/thread.h"
#include "core/cuda/handle.h"
#include "core/error.h"

namespace weft::cuda {
namespace {

using WaitValue = CUresult (*)(CUstream, CUdeviceptr, cuuint32_t, unsigned int);

/// Fetched at run time: a program linked against the driver would not even start without one.
WaitValue wait_value() {
  constexpr unsigned kCudaVersion = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  WEFT_CUDA_CHECK(
      cudaGetDriverEntryPointByVersion("cuStreamWaitValue32", &function, kCudaVersion, cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess || function == nullptr)
    throw Error(ErrorCode::kUnavailable, "this driver has no cuStreamWaitValue32", "update the driver");
  return reinterpret_cast<WaitValue>(function);
}

}  // namespace

Relay::Relay(Device device)
    : count_(device, sizeof(std::uint32_t), MemoryPlace::kPinned), thread_([this] {
        cpu::name_this_thread("cuda relay");
        run();
      }) {
  std::atomic_ref(*count_.as<std::uint32_t>()).store(0);
}

Relay::~Relay() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Relay::delay(cudaStream_t stream, const Event& event, std::shared_ptr<Fault> fault) {
  const WaitValue wait = wait_value();
  {
    std::lock_guard lock(mutex_);
    queue_.emplace_back(event, std::move(fault));
  }
  changed_.notify_one();
  const CUresult status =
      wait(stream, reinterpret_cast<CUdeviceptr>(count_.data()), ++num_delays_, CU_STREAM_WAIT_VALUE_GEQ);
  if (status != CUDA_SUCCESS)
    throw Error(ErrorCode::kDevice, str("cuStreamWaitValue32: driver error ", static_cast<int>(status)));
}

void Relay::run() {
  for (;;) {
    std::pair<Event, std::shared_ptr<Fault>> next;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) return;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    try {
      next.first.wait();
    } catch (...) {
      next.second->fail(std::current_exception());
    }
    std::atomic_ref(*count_.as<std::uint32_t>()).fetch_add(1, std::memory_order_release);
  }
}

}  // namespace weft::cuda
