#include "core/cuda/fault.h"

#include <atomic>
#include <utility>

#include "core/error.h"

namespace weft::cuda {

Fault::Fault(Device device) : memory_(device, sizeof(std::uint64_t), MemoryPlace::kPinned) {
  *memory_.as<std::uint64_t>() = 0;
}

std::uint64_t* Fault::word(Describe describe) {
  std::lock_guard lock(mutex_);
  describe_ = describe;
  return memory_.as<std::uint64_t>();
}

void Fault::check() const {
  const std::uint64_t word = std::atomic_ref(*memory_.as<std::uint64_t>()).load(std::memory_order_acquire);
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  if (word != 0) throw Error(ErrorCode::kInvalidArgument, describe_(word));
}

void Fault::fail(std::exception_ptr error) {
  std::lock_guard lock(mutex_);
  if (!error_) error_ = std::move(error);
}

}  // namespace weft::cuda
