#include "core/host_access.h"

namespace weft {

void* HostAccess::room_for(void* data, std::int64_t bytes) {
  if (stream_->device().kind == DeviceKind::kCpu) return data;
  if (buffer_.bytes() < bytes) buffer_ = Memory(Device{}, bytes);
  return buffer_.data();
}

const void* HostAccess::fetch(const void* data, std::int64_t bytes) {
  void* const at = room_for(const_cast<void*>(data), bytes);
  if (at == data || bytes == 0) return at;
  stream_->enqueue([&] { copy_bytes(*stream_, at, data, bytes); });
  stream_->synchronize();
  return at;
}

void HostAccess::send(void* data, std::int64_t bytes) {
  if (bytes == 0) return;
  stream_->enqueue([&] { copy_bytes(*stream_, data, buffer_.data(), bytes); });
  stream_->synchronize();
}

}  // namespace weft
