#include "core/cuda/recording.h"

#include "core/cuda/backend.h"
#include "core/cuda/device.h"
#include "core/first_error.h"

namespace weft::cuda {

GraphRecording::GraphRecording(std::span<Stream* const> streams, const std::function<void()>& work)
    : device_(streams.front()->device()) {
  std::vector<GpuStream*> all;
  for (Stream* stream : streams) all.push_back(&dynamic_cast<GpuStream&>(*stream));
  for (GpuStream* stream : all) stream->synchronize();  // nothing is left to look after: calls that look are refused
  for (GpuStream* stream : all) stream->set_recording(this);
  FirstError of_capture, of_streams;
  of_capture.run([&] { capture(all, work); });
  for (GpuStream* stream : all) stream->set_recording(nullptr);
  // a stream that has an error got nothing more, which is what the capture then fails for: its error comes first
  for (GpuStream* stream : all) of_streams.run([&] { stream->synchronize(); });
  of_streams.rethrow();
  of_capture.rethrow();
  for (const GpuStream* stream : all) faults_.push_back(stream->fault());
}

void GraphRecording::capture(std::span<GpuStream* const> streams, const std::function<void()>& work) {
  GpuStream& first = *streams.front();
  const DeviceScope scope(first.device());
  const auto origin = static_cast<cudaStream_t>(first.native());
  // other threads may go on with what they do: those of communicators look at events
  WEFT_CUDA_CHECK(cudaStreamBeginCapture(origin, cudaStreamCaptureModeThreadLocal));
  FirstError error;
  error.run([&] {
    const Event begin = first.record();
    for (GpuStream* stream : streams.subspan(1)) stream->wait(begin);
    work();
    for (GpuStream* stream : streams.subspan(1)) first.wait(stream->record());
  });
  cudaGraph_t raw = nullptr;
  const cudaError_t status = cudaStreamEndCapture(origin, &raw);
  const GraphHandle graph(raw);
  error.rethrow();
  check(status, "cudaStreamEndCapture");
  cudaGraphExec_t exec = nullptr;
  WEFT_CUDA_CHECK(cudaGraphInstantiate(&exec, graph.get(), cudaGraphInstantiateFlagUseNodePriority));
  graph_ = GraphExecHandle(exec);
  WEFT_CUDA_CHECK(cudaGraphUpload(exec, origin));  // its scratch is taken here, not by the first launch
}

GraphRecording::~GraphRecording() {
  if (graph_.get() == nullptr) return;
  graph_ = {};
  static_cast<void>(cudaDeviceGraphMemTrim(device_.index));  // its scratch goes back
}

void GraphRecording::launch(Stream& stream) {
  auto& on = dynamic_cast<GpuStream&>(stream);
  on.enqueue([&] {
    for (const auto& [who, watch] : watches_) watch.before();
    WEFT_CUDA_CHECK(cudaGraphLaunch(graph_.get(), static_cast<cudaStream_t>(on.native())));
    for (const auto& fault : faults_) on.inherit(fault);
    FirstError error;
    for (const auto& [who, watch] : watches_) error.run([&, &after = watch.after] { after(on); });
    error.rethrow();
  });
}

std::unique_ptr<Recording> record(std::span<Stream* const> streams, const std::function<void()>& work) {
  return std::make_unique<GraphRecording>(streams, work);
}

}  // namespace weft::cuda
