#include "core/cuda/stream.h"

#include <algorithm>

#include "core/cuda/backend.h"
#include "core/cuda/device.h"
#include "core/cuda/memory.h"
#include "core/cuda/recording.h"
#include "core/error.h"
#include "core/log.h"

namespace weft::cuda {
namespace {

/// Timing is off: an event that orders must not measure. A host thread that waits for one sleeps.
EventHandle make_event() {
  cudaEvent_t raw = nullptr;
  WEFT_CUDA_CHECK(cudaEventCreateWithFlags(&raw, cudaEventDisableTiming | cudaEventBlockingSync));
  return EventHandle(raw);
}

bool is_done(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  return true;  // failed work is finished, too; who waits for it gets the error
}

class EventState final : public Event::State {
 public:
  EventState(EventHandle event, std::exception_ptr error, std::vector<std::shared_ptr<const Fault>> faults)
      : event_(std::move(event)), error_(std::move(error)), faults_(std::move(faults)) {}

  bool done() const override { return is_done(event_.get()); }
  void wait() const override {
    WEFT_CUDA_CHECK(cudaEventSynchronize(event_.get()));
    if (error_) std::rethrow_exception(error_);
    for (const auto& fault : faults_) fault->check();
  }
  [[nodiscard]] cudaEvent_t event() const noexcept { return event_.get(); }
  [[nodiscard]] const std::exception_ptr& error() const noexcept { return error_; }
  [[nodiscard]] const std::vector<std::shared_ptr<const Fault>>& faults() const noexcept { return faults_; }

 private:
  EventHandle event_;
  std::exception_ptr error_;
  std::vector<std::shared_ptr<const Fault>> faults_;
};

StreamHandle make_handle(Device device, StreamPriority priority) {
  require(device);
  const DeviceScope scope(device);
  prepare_pool(device.index);
  int lowest = 0, highest = 0;  // numbers grow downwards: the highest priority is the smallest number
  WEFT_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  cudaStream_t raw = nullptr;
  WEFT_CUDA_CHECK(
      cudaStreamCreateWithPriority(&raw, cudaStreamNonBlocking, priority == StreamPriority::kHigh ? highest : lowest));
  return StreamHandle(raw);
}

}  // namespace

GpuStream::GpuStream(Device device, std::string_view name, StreamPriority priority)
    : device_(device), name_(name), stream_(make_handle(device, priority)), fault_(std::make_shared<Fault>(device)) {}

GpuStream::~GpuStream() {
  try {
    synchronize();
  } catch (const std::exception& e) {
    log()->error("stream {}: nobody collected this error: {}", name_, e.what());
  } catch (...) {
    log()->error("stream {}: nobody collected an unknown error", name_);
  }
}

template <class F>
void GpuStream::guard(const F& work) {
  if (error_) return;
  try {
    const DeviceScope scope(device_);
    drop_finished();
    work();
  } catch (...) {
    error_ = std::current_exception();
  }
}

void GpuStream::enqueue(std::function<void()> work) { guard(work); }

Event GpuStream::record() {
  std::vector<std::shared_ptr<const Fault>> faults = inherited_;
  faults.push_back(fault_);
  const DeviceScope scope(device_);
  EventHandle event = make_event();
  WEFT_CUDA_CHECK(cudaEventRecord(event.get(), stream_.get()));
  return Event(std::make_shared<EventState>(std::move(event), error_, std::move(faults)));
}

void GpuStream::wait(const Event& event) {
  guard([&] {
    const auto* gpu = dynamic_cast<const EventState*>(event.state());
    if (gpu != nullptr) {
      WEFT_CUDA_CHECK(cudaStreamWaitEvent(stream_.get(), gpu->event()));
      for (const auto& fault : gpu->faults()) inherit(fault);
      if (gpu->error()) std::rethrow_exception(gpu->error());
    } else if (event.done()) {
      event.wait();  // for its error alone
    } else if (recording_ != nullptr) {
      throw Error(ErrorCode::kUnavailable, "work of the host cannot be waited for in a recording",
                  "run the work on its streams");
    } else {
      if (!relay_) relay_ = std::make_unique<Relay>(device_);
      relay_->delay(stream_.get(), event, fault_);
    }
  });
}

void GpuStream::inherit(const std::shared_ptr<const Fault>& fault) {
  if (fault != fault_ && std::find(inherited_.begin(), inherited_.end(), fault) == inherited_.end())
    inherited_.push_back(fault);
}

void GpuStream::keep_alive(std::shared_ptr<const void> owner) {
  if (recording_ != nullptr) return recording_->keep(std::move(owner));
  // not a host callback: the last owner of device memory must not die where CUDA may not be called
  const DeviceScope scope(device_);
  EventHandle event = make_event();
  WEFT_CUDA_CHECK(cudaEventRecord(event.get(), stream_.get()));
  kept_.emplace_back(std::move(event), std::move(owner));
}

void GpuStream::drop_finished() {
  while (!kept_.empty() && is_done(kept_.front().first.get())) kept_.pop_front();
}

/// What the GPU and the streams before this one found wrong becomes the stream's error, unless it has one.
void GpuStream::wait_for_all() try {
  const DeviceScope scope(device_);
  WEFT_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
  kept_.clear();
  for (const auto& fault : inherited_) fault->check();
  fault_->check();
} catch (...) {
  if (!error_) error_ = std::current_exception();
}

void GpuStream::synchronize() {
  wait_for_all();
  inherited_.clear();
  if (!error_) return;
  fault_ = std::make_shared<Fault>(device_);  // events recorded before keep the old one, and its error
  std::rethrow_exception(std::exchange(error_, nullptr));
}

std::unique_ptr<Stream> make_stream(Device device, std::string_view name, StreamPriority priority) {
  return std::make_unique<GpuStream>(device, name, priority);
}

}  // namespace weft::cuda
