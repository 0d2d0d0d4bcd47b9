// core/cuda/recording.h - a CUDA graph, captured from streams.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/cuda/fault.h"
#include "core/cuda/handle.h"
#include "core/cuda/stream.h"
#include "core/recording.h"

namespace weft::cuda {

using GraphHandle = Handle<cudaGraph_t, cudaGraphDestroy>;
using GraphExecHandle = Handle<cudaGraphExec_t, cudaGraphExecDestroy>;

/// See Recording. While it is made, the streams that are captured know it (GpuStream::recording()).
class GraphRecording final : public Recording {
 public:
  GraphRecording(std::span<Stream* const> streams, const std::function<void()>& work);
  ~GraphRecording() override;
  void launch(Stream& stream) override;

  /// Holds `owner` as long as the recording lives.
  void keep(std::shared_ptr<const void> owner) { kept_.push_back(std::move(owner)); }
  /// What the host has to do around each launch: before, where an error keeps it from being launched, and after, with
  /// the stream that it was launched on.
  struct Watch {
    std::function<void()> before;
    std::function<void(GpuStream&)> after;
  };
  void watch(const void* who, Watch watch) { watches_.emplace(who, std::move(watch)); }  ///< One for each `who`.

 private:
  void capture(std::span<GpuStream* const> streams, const std::function<void()>& work);

  Device device_;
  GraphExecHandle graph_;
  std::vector<std::shared_ptr<const Fault>> faults_;  // its kernels report there, whatever stream it is launched on
  std::vector<std::shared_ptr<const void>> kept_;
  std::map<const void*, Watch> watches_;
};

}  // namespace weft::cuda
