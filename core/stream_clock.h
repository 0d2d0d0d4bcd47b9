// core/stream_clock.h - when the streams of a device reached points of their work, and names for what they do.
#pragma once

#include <cstddef>
#include <memory>

#include "core/stream.h"

namespace weft {

/// Times of numbered points of a step's streams, read when the step is over. Nothing waits for a point that is noted.
/// CPU: the host's clock. CUDA: an event of the stream each time, so a point is when the GPU came to it and not when
/// the host launched it; it costs two driver calls a task. Good to about a microsecond on one GPU.
class StreamClock {
 public:
  virtual ~StreamClock() = default;
  /// Time 0 is now. The streams have nothing to do yet.
  virtual void start() = 0;
  /// `point` is where `stream` stands: all work before it is done. Called from inside a task of `stream`, which is one
  /// of the clock's device or of the CPU. Streams may note different points at once.
  virtual void note(std::size_t point, const Stream& stream) = 0;
  /// Microseconds since start() of a point whose stream has been synchronized since.
  [[nodiscard]] virtual double us(std::size_t point) const = 0;
};

/// Points 0 to num_points - 1. Throws Error{kUnavailable} for a device this build or machine lacks.
[[nodiscard]] std::unique_ptr<StreamClock> make_stream_clock(Device device, std::size_t num_points);

/// What the calling thread launches while this lives, under one name in the timeline of Nsight Systems (an NVTX range).
/// Without a profiler it costs a look at a pointer.
class LaunchRange {
 public:
  explicit LaunchRange(const char* name);  ///< Null: no range.
  ~LaunchRange();
  LaunchRange(const LaunchRange&) = delete;
  LaunchRange& operator=(const LaunchRange&) = delete;

 private:
  bool open_;
};

}  // namespace weft
