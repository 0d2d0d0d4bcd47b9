// core/cuda/stream_clock.cpp - a timed event for every point, and ranges for Nsight Systems.
#include "core/stream_clock.h"

#include <nvtx3/nvToolsExt.h>

#include <vector>

#include "core/cpu/backend.h"
#include "core/cuda/backend.h"
#include "core/cuda/device.h"
#include "core/cuda/stream.h"

namespace weft::cuda {
namespace {

EventHandle make_timed_event() {
  cudaEvent_t raw = nullptr;
  WEFT_CUDA_CHECK(cudaEventCreateWithFlags(&raw, cudaEventDefault));
  return EventHandle(raw);
}

class EventClock final : public StreamClock {
 public:
  EventClock(Device device, std::size_t num_points)
      : device_(device),
        stream_(device, "clock", StreamPriority::kNormal),
        host_(cpu::make_stream_clock(num_points)),
        events_(num_points),
        on_host_(num_points) {
    const DeviceScope scope(device_);
    origin_ = make_timed_event();
    for (EventHandle& event : events_) event = make_timed_event();
  }

  void start() override {
    const DeviceScope scope(device_);
    WEFT_CUDA_CHECK(cudaEventRecord(origin_.get(), static_cast<cudaStream_t>(stream_.native())));
    WEFT_CUDA_CHECK(cudaEventSynchronize(origin_.get()));  // so that 0 is the same on both clocks
    host_->start();
  }
  void note(std::size_t point, const Stream& stream) override {
    on_host_[point] = stream.device().kind == DeviceKind::kCpu;
    if (on_host_[point]) return host_->note(point, stream);
    const auto& gpu = dynamic_cast<const GpuStream&>(stream);
    // in a recording, an event that is only recorded orders, and has no time
    const unsigned flags = gpu.recording() != nullptr ? cudaEventRecordExternal : cudaEventRecordDefault;
    WEFT_CUDA_CHECK(cudaEventRecordWithFlags(events_[point].get(), static_cast<cudaStream_t>(stream.native()), flags));
  }
  double us(std::size_t point) const override {
    if (on_host_[point]) return host_->us(point);
    constexpr double kMicrosecondsPerMillisecond = 1e3;
    float ms = 0.0F;
    WEFT_CUDA_CHECK(cudaEventElapsedTime(&ms, origin_.get(), events_[point].get()));
    return kMicrosecondsPerMillisecond * static_cast<double>(ms);
  }

 private:
  Device device_;
  GpuStream stream_;
  std::unique_ptr<StreamClock> host_;
  EventHandle origin_;
  std::vector<EventHandle> events_;
  std::vector<char> on_host_;  // not bool: streams note their points side by side
};

}  // namespace

std::unique_ptr<StreamClock> make_stream_clock(Device device, std::size_t num_points) {
  return std::make_unique<EventClock>(device, num_points);
}

void open_range(const char* name) noexcept { static_cast<void>(nvtxRangePushA(name)); }
void close_range() noexcept { static_cast<void>(nvtxRangePop()); }

}  // namespace weft::cuda
