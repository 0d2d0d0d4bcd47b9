// core/cuda/relay.h - lets a CUDA stream wait for the events of CPU streams without blocking anyone who enqueues.
// Source: CUDA driver API, "Stream Memory Operations" (cuStreamWaitValue32).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include <cuda_runtime_api.h>

#include "core/memory.h"
#include "core/stream.h"

namespace weft::cuda {

/// A thread waits for the events in turn and counts them in pinned memory; the stream waits there for its number. Not a
/// host callback: CUDA may run those one after the other over all streams, so a callback that blocks can hang two of
/// them.
class Relay {
 public:
  /// Throws Error{kUnavailable} where the driver has no stream memory operations.
  explicit Relay(Device device);
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;
  ~Relay();

  /// Later work of `stream` starts after `event`, which may fail: see take_error().
  void delay(cudaStream_t stream, const Event& event);
  /// The first error of the events that have come so far, and forgets it. Work behind a failed event has run all the
  /// same, on whatever there was: its results are void.
  [[nodiscard]] std::exception_ptr take_error();

 private:
  void run();

  Memory count_;  // how many events have come: one 32-bit number that the stream compares with
  std::uint32_t num_delays_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Event> queue_;
  bool stop_ = false;
  std::exception_ptr error_;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace weft::cuda
