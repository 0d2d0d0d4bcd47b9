// core/cpu/thread.h - how the operating system treats a thread.
#pragma once

#include <string_view>

namespace weft::cpu {

/// `name` shows in debuggers and in top -H, cut to what the system takes (15 characters).
void name_this_thread(std::string_view name) noexcept;

/// For a thread that mostly sleeps: naps end when they should (no timer slack), and from Linux 6.12 on a computing
/// thread gives way to it at once (a short time slice, so its turn comes first; sched_setattr(2)), where it would else
/// go on for milliseconds. Its share of the core does not grow. Needs no privilege; where the system cannot do it,
/// nothing happens.
void prefer_this_thread() noexcept;

}  // namespace weft::cpu
