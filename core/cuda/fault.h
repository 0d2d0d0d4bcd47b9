// core/cuda/fault.h - how kernels report contents that are wrong (an index out of range) without anyone waiting.
#pragma once

#include <cstdint>
#include <exception>
#include <mutex>
#include <string>

#include "core/memory.h"

namespace weft::cuda {

/// One word in pinned memory. A kernel that finds an element out of range leaves it out and stores a word that is not
/// zero: which check, where, what (kernels/cuda/fault.cuh packs it). Of several, any one stays. The host reads the word
/// when it has waited for the work anyway; the error belongs to the stream from then on. It covers all work of its
/// stream since the last synchronize(): an event may report what came just after it.
class Fault {
 public:
  using Describe = std::string (*)(std::uint64_t word);  ///< The message for a word.

  explicit Fault(Device device);
  /// For kernels: where to store. `describe` is kept for the message; equal words must mean the same to all of them.
  [[nodiscard]] std::uint64_t* word(Describe describe);
  /// Throws Error{kInvalidArgument} when a kernel stored a word, or what fail() got. Call it when the work in question
  /// is done.
  void check() const;
  /// What the host has found out about the stream's work, from any thread: check() throws it. The first one stays.
  void fail(std::exception_ptr error);

 private:
  Memory memory_;
  mutable std::mutex mutex_;
  Describe describe_ = nullptr;
  std::exception_ptr error_;
};

}  // namespace weft::cuda
