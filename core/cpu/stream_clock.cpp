// core/cpu/stream_clock.cpp - the host's clock.
#include "core/stream_clock.h"

#include <chrono>
#include <vector>

#include "core/cpu/backend.h"

namespace weft::cpu {
namespace {

using Clock = std::chrono::steady_clock;

class HostClock final : public StreamClock {
 public:
  explicit HostClock(std::size_t num_points) : times_(num_points) {}

  void start() override { origin_ = Clock::now(); }
  void note(std::size_t point, const Stream&) override { times_[point] = Clock::now(); }
  double us(std::size_t point) const override {
    return std::chrono::duration<double, std::micro>(times_[point] - origin_).count();
  }

 private:
  std::vector<Clock::time_point> times_;
  Clock::time_point origin_ = Clock::now();
};

}  // namespace

std::unique_ptr<StreamClock> make_stream_clock(std::size_t num_points) {
  return std::make_unique<HostClock>(num_points);
}

}  // namespace weft::cpu
