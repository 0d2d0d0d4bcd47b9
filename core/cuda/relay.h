// core/cuda/relay.h - lets a CUDA stream wait for the events of CPU streams without blocking anyone who enqueues.
// Source: CUDA driver API, "Stream Memory Operations" (cuStreamWaitValue32).
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include <cuda_runtime_api.h>

#include "core/cuda/fault.h"
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

  /// Later work of `stream` starts after `event`. An error of it goes to `fault`, the stream's, before that work
  /// starts: it runs all the same, on whatever there is, and its results are void.
  void delay(cudaStream_t stream, const Event& event, std::shared_ptr<Fault> fault);

 private:
  void run();

  Memory count_;  // how many events have come: one 32-bit number that the stream compares with
  std::uint32_t num_delays_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<Event, std::shared_ptr<Fault>>> queue_;
  bool stop_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

}  // namespace weft::cuda
