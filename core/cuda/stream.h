// core/cuda/stream.h - the stream of a GPU, as the kernels of kernels/cuda see it.
#pragma once

#include <deque>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/cuda/fault.h"
#include "core/cuda/handle.h"
#include "core/cuda/relay.h"
#include "core/stream.h"

namespace weft::cuda {

class GraphRecording;

/// See Stream. Tasks run when they are enqueued, on the caller's thread, with the stream's device current.
class GpuStream final : public Stream {
 public:
  GpuStream(Device device, std::string_view name, StreamPriority priority);
  ~GpuStream() override;

  Device device() const noexcept override { return device_; }
  void* native() const noexcept override { return stream_.get(); }
  void enqueue(std::function<void()> work) override;
  Event record() override;
  void wait(const Event& event) override;
  void keep_alive(std::shared_ptr<const void> owner) override;
  void synchronize() override;

  /// Where kernels on this stream report wrong contents.
  [[nodiscard]] std::uint64_t* fault_word(Fault::Describe describe) { return fault_->word(describe); }
  /// Where the host reports what it finds wrong with the work enqueued so far (a lost peer).
  [[nodiscard]] const std::shared_ptr<Fault>& fault() const noexcept { return fault_; }
  /// What records the stream's work instead of running it; null: it runs.
  [[nodiscard]] GraphRecording* recording() const noexcept { return recording_; }
  void set_recording(GraphRecording* recording) noexcept { recording_ = recording; }
  /// What is reported to `fault` is an error of this stream's work, too, until the next synchronize().
  void inherit(const std::shared_ptr<const Fault>& fault);
  /// What a library keeps with a stream (kernels: a cuBLAS handle). Dies before the stream, when its work is done.
  [[nodiscard]] std::shared_ptr<void>& attachment() noexcept { return attachment_; }

 private:
  template <class F>
  void guard(const F& work);
  void drop_finished();
  void wait_for_all();

  Device device_;
  std::string name_;
  StreamHandle stream_;
  std::shared_ptr<Fault> fault_;
  std::vector<std::shared_ptr<const Fault>> inherited_;  // of streams whose events this one waited for
  std::unique_ptr<Relay> relay_;                         // made when the first event of another kind of device comes
  std::deque<std::pair<EventHandle, std::shared_ptr<const void>>> kept_;
  std::exception_ptr error_;
  GraphRecording* recording_ = nullptr;
  std::shared_ptr<void> attachment_;
};

}  // namespace weft::cuda
