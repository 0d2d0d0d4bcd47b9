// scheduler/arena.h - the memory behind a plan's slots.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/device.h"
#include "core/memory.h"
#include "core/stream.h"
#include "scheduler/plan.h"

namespace weft::scheduler {

/// One block of memory per slot, allocated at once. A buffer's memory is valid from its first writer to its last
/// reader, in issue order. Not thread-safe across tasks of one slot, which the plan's edges keep apart.
class Arena {
 public:
  Arena() = default;
  Arena(Device device, const Graph& graph, SlotMap slots);

  template <class T>
  [[nodiscard]] T* get(BufferId b) const {
    return blocks_[map_.slot_of_buffer[b]].template as<T>();
  }
  /// Makes room for `count` elements before an elastic buffer is filled by a task of `stream`; what the slot held is
  /// lost. Grows are counted.
  template <class T>
  T* require(Stream& stream, BufferId b, std::int64_t count) {
    reserve(stream, b, count * static_cast<std::int64_t>(sizeof(T)));
    return get<T>(b);
  }
  [[nodiscard]] Device device() const noexcept { return device_; }
  [[nodiscard]] std::int64_t num_grows() const noexcept { return num_grows_.load(); }
  [[nodiscard]] std::int64_t bytes() const noexcept;  ///< Allocated now.

 private:
  void reserve(Stream& stream, BufferId b, std::int64_t bytes);

  Device device_;
  SlotMap map_;
  std::vector<Memory> blocks_;
  std::vector<const char*> labels_;          // [buffers]
  std::atomic<std::int64_t> num_grows_ = 0;  // streams grow different slots at once
};

}  // namespace weft::scheduler
