// tests/support/nccl/hooks.h - what tests may ask the emulated NCCL, and do to it.
#pragma once

#include <string>
#include <vector>

namespace weft::emulation::nccl {

/// What was misused since the last call, in words; empty when all went by the book.
[[nodiscard]] std::vector<std::string> take_complaints();
[[nodiscard]] int num_communicators();  ///< Neither destroyed nor aborted.
/// Links that were made by a launch rather than by an initialisation, so far, of all ranks.
[[nodiscard]] int num_late_connections();
/// The process of this GPU dies: its communicators are of no use, their other ranks learn of it, as through a network.
void lose_device(int device);

/// Of one communicator, as its config says; -1 where that is unset.
struct Budget {
  int size, min_ctas, max_ctas;
  friend bool operator==(const Budget&, const Budget&) = default;
};
/// Of the communicators made so far on one device, in order.
[[nodiscard]] std::vector<Budget> budgets_on(int device);

}  // namespace weft::emulation::nccl
