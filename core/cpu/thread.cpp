#include "core/cpu/thread.h"

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace weft::cpu {
namespace {

/// The kernel's struct sched_attr, first version; the C library has none.
struct SchedAttributes {
  std::uint32_t size;
  std::uint32_t policy;
  std::uint64_t flags;
  std::int32_t nice;
  std::uint32_t priority;
  std::uint64_t runtime_ns;
  std::uint64_t deadline_ns;
  std::uint64_t period_ns;
};

}  // namespace

void name_this_thread(std::string_view name) noexcept {
  char text[16] = {};
  name.copy(text, sizeof text - 1);
  static_cast<void>(prctl(PR_SET_NAME, text, 0UL, 0UL, 0UL));
}

void prefer_this_thread() noexcept {
  constexpr unsigned long kTimerSlackNs = 1000;
  static_cast<void>(prctl(PR_SET_TIMERSLACK, kTimerSlackNs, 0UL, 0UL, 0UL));
  constexpr std::uint64_t kSliceNs = 100'000;  // the shortest that Linux takes
  SchedAttributes attributes{};
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0U) != 0) return;
  attributes.size = sizeof attributes;
  attributes.runtime_ns = kSliceNs;
  static_cast<void>(syscall(SYS_sched_setattr, 0, &attributes, 0U));
}

}  // namespace weft::cpu
