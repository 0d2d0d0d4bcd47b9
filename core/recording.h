// core/recording.h - work of several streams of a GPU, recorded once and launched again and again as one.
// Source: CUDA C++ Programming Guide, "CUDA Graphs" (stream capture).
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "core/stream.h"

namespace weft {

/// What its kernels read and write, and every argument of their launches, is as it was when they were recorded. It dies
/// when its launches are done, and before the communicators whose collectives it holds.
class Recording {
 public:
  virtual ~Recording() = default;
  /// Launches all of it behind what `stream`, one of those that were recorded, has been given. What the work finds
  /// wrong becomes the error of `stream`; the recording is of no use then. One launch at a time.
  virtual void launch(Stream& stream) = 0;
};

/// Calls work(), which enqueues on `streams`, each of which has nothing to do, and records that; nothing of it runs.
/// Streams start at one point and are waited for at the end. streams: of one GPU, at least one. Nothing in it may wait
/// for the host, or be waited for: no events of the CPU, no collectives through the host. Memory that work() takes in a
/// stream's order is the recording's. Throws Error{kUnavailable} for the CPU, the first error of a task, and
/// Error{kDevice} for calls that CUDA does not record; `streams` are as before then.
[[nodiscard]] std::unique_ptr<Recording> record(std::span<Stream* const> streams, const std::function<void()>& work);

}  // namespace weft
