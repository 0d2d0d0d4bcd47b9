// core/stream.h - work in order on one device, and the events that order streams against each other.
// Source: streams and events of the CUDA C++ Programming Guide ("Asynchronous Concurrent Execution"), widened to
// host worker threads, so that one schedule runs with and without a GPU.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include "core/device.h"

namespace weft {

/// A point in a stream's work: a value, cheap to copy. Default-constructed, it is a point long past.
class Event {
 public:
  struct State {  ///< A backend's half. `wait` rethrows the first error of the work before the point.
    virtual ~State() = default;
    [[nodiscard]] virtual bool done() const = 0;
    virtual void wait() const = 0;
  };

  Event() = default;
  explicit Event(std::shared_ptr<const State> state) noexcept : state_(std::move(state)) {}
  /// True once all work before the point has finished or failed. Never blocks.
  [[nodiscard]] bool done() const { return !state_ || state_->done(); }
  /// Blocks the calling thread until done(). Throws what the covered work threw.
  void wait() const {
    if (state_) state_->wait();
  }
  [[nodiscard]] const State* state() const noexcept { return state_.get(); }

 private:
  std::shared_ptr<const State> state_;
};

/// FIFO queue of work on one device. One owner (unique_ptr); passed as Stream&; one thread enqueues at a time.
/// Errors stick: after a task throws, later tasks are skipped until synchronize() has rethrown the first error.
///
/// Kernels and collectives take a Stream& and are called from inside a task of that stream. On the CPU they do their
/// work before they return, on the thread that runs the task; on CUDA they launch onto native() and return at once.
class Stream {
 public:
  virtual ~Stream() = default;  ///< Drains the queue. Never throws: an error nobody collected is logged.
  [[nodiscard]] virtual Device device() const noexcept = 0;
  /// Runs `work` after all earlier work. CPU: later, on the stream's own thread. CUDA: now, on the caller's thread,
  /// where it may only launch onto native(); what the launches read and write goes to keep_alive().
  virtual void enqueue(std::function<void()> work) = 0;
  [[nodiscard]] virtual Event record() = 0;  ///< The current end of the queue.
  /// Later work starts after `event` and inherits its error. Never blocks the caller.
  virtual void wait(const Event& event) = 0;
  /// Holds `owner` until all work enqueued so far is done.
  virtual void keep_alive(std::shared_ptr<const void> owner) = 0;
  virtual void synchronize() = 0;  ///< Blocks until the queue is empty; rethrows and clears the first error.
  [[nodiscard]] virtual void* native() const noexcept = 0;  ///< The cudaStream_t; nullptr on the CPU.
};

/// kHigh, for communication: it waits most of the time, and what it does when its turn comes is short and others wait
/// for it. CUDA: its kernels go before those of other streams. CPU: its thread takes a core from a computing one at
/// once.
enum class StreamPriority : std::uint8_t { kNormal, kHigh };

/// `name` shows in logs and traces. Throws Error{kUnavailable} for a device this build or machine lacks.
[[nodiscard]] std::unique_ptr<Stream> make_stream(Device device, std::string_view name,
                                                  StreamPriority priority = StreamPriority::kNormal);

/// A CPU stream without a thread: enqueue() runs its work before it returns, on the caller's thread.
[[nodiscard]] std::unique_ptr<Stream> make_inline_stream();

/// For work that its caller waits for: an inline stream on the CPU, a stream of its own on a GPU.
[[nodiscard]] std::unique_ptr<Stream> make_waiting_stream(Device device);

}  // namespace weft
