// core/first_error.h - the first of several errors, where each of several things has to be tried.
#pragma once

#include <exception>
#include <mutex>
#include <utility>

namespace weft {

/// Threads may share one.
class FirstError {
 public:
  /// Calls attempt(). False when it threw: what it threw is kept, if it is the first.
  template <class Attempt>
  bool run(Attempt&& attempt) {
    try {
      std::forward<Attempt>(attempt)();
      return true;
    } catch (...) {
      std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      return false;
    }
  }
  /// Throws what was kept, if anything was.
  void rethrow() const {
    std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  mutable std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace weft
