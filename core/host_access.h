// core/host_access.h - lets the host read and fill memory of a device: for checkpoints and initial weights.
#pragma once

#include <cstdint>
#include <memory>

#include "core/memory.h"
#include "core/stream.h"

namespace weft {

/// In place on the CPU; on a GPU through a buffer that grows with what is asked for. Every call waits for its copies;
/// nothing else may use the memory meanwhile.
class HostAccess {
 public:
  explicit HostAccess(Device device) : stream_(make_waiting_stream(device)) {}

  /// `count` elements as the host may read them, until the next call.
  template <class T>
  [[nodiscard]] const T* read(const T* data, std::int64_t count) {
    return static_cast<const T*>(fetch(data, count * static_cast<std::int64_t>(sizeof(T))));
  }
  /// write(T*) fills `count` elements, which become those at `data`.
  template <class T, class Write>
  void fill(T* data, std::int64_t count, const Write& write) {
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(T));
    void* const at = room_for(data, bytes);
    write(static_cast<T*>(at));
    if (at != data) send(data, bytes);
  }

 private:
  [[nodiscard]] const void* fetch(const void* data, std::int64_t bytes);
  [[nodiscard]] void* room_for(void* data, std::int64_t bytes);
  void send(void* data, std::int64_t bytes);

  std::unique_ptr<Stream> stream_;
  Memory buffer_;  // of the host
};

}  // namespace weft
