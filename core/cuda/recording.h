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
  void launch(Stream& stream) override;

  /// Holds `owner` as long as the recording lives.
  void keep(std::shared_ptr<const void> owner) { kept_.push_back(std::move(owner)); }
  /// What the host has to do each time the work has been launched, on the stream that it was launched on: once for each
  /// `who`.
  void after_launch(const void* who, std::function<void(GpuStream&)> call) { after_.emplace(who, std::move(call)); }

 private:
  void capture(std::span<GpuStream* const> streams, const std::function<void()>& work);

  GraphExecHandle graph_;
  std::vector<std::shared_ptr<const Fault>> faults_;  // its kernels report there, whatever stream it is launched on
  std::vector<std::shared_ptr<const void>> kept_;
  std::map<const void*, std::function<void(GpuStream&)>> after_;
};

}  // namespace weft::cuda
