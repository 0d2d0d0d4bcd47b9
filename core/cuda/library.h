// core/cuda/library.h - CUDA's own libraries, opened when first called: a build with CUDA starts as fast as one
// without, and runs where they are not installed.
#pragma once

#include <string>

namespace weft::cuda {

/// An open shared library; it stays open until the process ends.
class Library {
 public:
  /// `name`: as the loader knows it, e.g. "libcublas.so.13"; `what` it belongs to, for the message. Throws
  /// Error{kUnavailable} with the loader's reason.
  Library(const char* name, const char* what);
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  /// Function: a function type. Throws Error{kUnavailable} when the library is too old to have it.
  template <class Function>
  [[nodiscard]] Function* get(const char* function) const {
    return reinterpret_cast<Function*>(address(function));
  }

 private:
  [[nodiscard]] void* address(const char* function) const;

  std::string name_;
  void* library_;
};

}  // namespace weft::cuda
