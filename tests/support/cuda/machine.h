// tests/support/cuda/machine.h - the emulated GPU behind cuda_runtime_api.h: queues, points in them, grids.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "tests/support/cuda/capture.h"

namespace weft::emulation {

/// GPUs that this process sees: 1, or what a main() asks for before the first use.
[[nodiscard]] int num_devices();
void set_num_devices(int count);
/// The calling thread's.
[[nodiscard]] int current_device();
void set_current_device(int device);

/// Work in order on one thread. It belongs to the device that is current when it is made.
class Queue {
 public:
  Queue() : device_(current_device()), thread_([this] { run(); }) {}
  ~Queue();
  [[nodiscard]] int device() const { return device_; }
  void push(std::function<void()> work);
  [[nodiscard]] Capture* capture() const { return capture_; }  ///< What records it; null: it runs.
  void set_capture(Capture* capture) { capture_ = capture; }
  void drain();  ///< Returns when all is done.

 private:
  void run();
  int device_;
  Capture* capture_ = nullptr;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
  bool stop_ = false, busy_ = false;
  std::thread thread_;  // last: starts when the rest is there
};

/// A place in a queue.
class Point {
 public:
  explicit Point(bool reached) : reached_(reached) {}
  void reach();
  void wait();
  [[nodiscard]] bool reached();
  [[nodiscard]] double ms_since(const Point& earlier) const {
    return std::chrono::duration<double, std::milli>(when_ - earlier.when_).count();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_;
  std::chrono::steady_clock::time_point when_;
};
/// An event: the last point that was recorded, at first one long past.
class Mark {
 public:
  explicit Mark(bool timed) : timed_(timed), device_(current_device()) {}
  [[nodiscard]] bool timed() const { return timed_; }
  [[nodiscard]] int device() const { return device_; }
  [[nodiscard]] std::shared_ptr<Point> point() const { return point_; }
  [[nodiscard]] std::shared_ptr<Point> renew() {
    capture_ = nullptr;
    return point_ = std::make_shared<Point>(false);
  }
  /// It is a place in what is being recorded, which orders and is never reached.
  void record_in(Capture& capture, const Queue& queue) {
    capture_ = &capture;
    places_ = capture.places(queue);
  }
  [[nodiscard]] Capture* capture() const { return capture_; }
  [[nodiscard]] const Capture::Places& places() const { return places_; }

 private:
  bool timed_;
  int device_;
  std::shared_ptr<Point> point_ = std::make_shared<Point>(true);
  Capture* capture_ = nullptr;
  Capture::Places places_;
};

struct Dim {
  unsigned x, y, z;
  Dim(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct LaunchConfig {
  Dim gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  Queue* stream = nullptr;
  [[nodiscard]] bool is_valid() const;
};

inline constexpr unsigned kWarpLanes = 32;
inline constexpr std::size_t kSharedBytes = 232448;  ///< Of a block on sm_90.
/// What a block may have: kSharedBytes, or WEFT_EMULATION_SHARED, as a smaller GPU would.
[[nodiscard]] int shared_limit();

/// Bytes of each GPU: kDeviceBytes, or WEFT_EMULATION_MEMORY, as a smaller one would have.
inline constexpr std::size_t kDeviceBytes = std::size_t{1} << 40;
[[nodiscard]] std::size_t device_bytes();
[[nodiscard]] std::size_t device_bytes_in_use(int device);
/// Null when they do not fit, or are more than WEFT_EMULATION_LARGEST, as on a GPU whose free memory is in pieces.
[[nodiscard]] void* allocate_device_bytes(int device, std::size_t bytes);
void free_device_bytes(void* data);

/// WEFT_EMULATION_ORDER. 0: threads take turns from barrier to barrier, in ascending order. 1: descending, and a warp
/// runs on while it only waits for itself. 2: they take turns in an order that every block mixes up.
[[nodiscard]] int order_mode();

/// Runs `body` once for every thread of every block. A body that leaves threads waiting at a barrier for ever aborts.
void run_grid(const LaunchConfig& config, const std::function<void()>& body);

/// The block that the calling coroutine belongs to.
struct Grid {
  Dim size, block_size, block;
  std::uint64_t turn = 0;  ///< Another one for each block that this operating system thread runs.
};
[[nodiscard]] Grid& grid();
[[nodiscard]] const Dim& this_thread_index();
void block_barrier();
void warp_barrier();
inline constexpr std::size_t kExchangeBytes = 32;
/// The bytes through which a lane of this thread's warp hands a value to others.
[[nodiscard]] void* exchange_slot(unsigned lane);

template <class T>
T shuffle_xor(T value, int step) {
  static_assert(sizeof(T) <= kExchangeBytes);
  const unsigned lane = this_thread_index().x % kWarpLanes;
  std::memcpy(exchange_slot(lane), &value, sizeof value);
  warp_barrier();
  std::memcpy(&value, exchange_slot(lane ^ static_cast<unsigned>(step)), sizeof value);
  warp_barrier();
  return value;
}

/// Bit l: what lane l of this thread's warp says.
inline unsigned ballot(bool value) {
  std::memcpy(exchange_slot(this_thread_index().x % kWarpLanes), &value, sizeof value);
  warp_barrier();
  unsigned bits = 0;
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    bool there = false;
    std::memcpy(&there, exchange_slot(lane), sizeof there);
    if (there) bits |= 1U << lane;
  }
  warp_barrier();
  return bits;
}

/// Bit l: lane l of this thread's warp says the same.
template <class T>
unsigned match_any(T value) {
  static_assert(sizeof(T) <= kExchangeBytes);
  std::memcpy(exchange_slot(this_thread_index().x % kWarpLanes), &value, sizeof value);
  warp_barrier();
  unsigned bits = 0;
  for (unsigned lane = 0; lane < kWarpLanes; ++lane)
    if (std::memcmp(exchange_slot(lane), &value, sizeof value) == 0) bits |= 1U << lane;
  warp_barrier();
  return bits;
}

}  // namespace weft::emulation

// read as blockDim.x and gridDim.x in kernels; members of LaunchConfig have the same names, so these cannot be macros
inline thread_local weft::emulation::Dim blockDim, gridDim;
